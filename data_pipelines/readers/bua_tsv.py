"""Bottom-up attention's TSV files (Anderson et al., CVPR 2018), as published.

No header, a line an image, six columns parted by tabs:

  image_id  image_w  image_h  num_boxes  boxes  features

`boxes` is base64 of float32 [n, 4], x1 y1 x2 y2 in pixels; `features` of float32
[n, D]. 36 boxes, or 10 to 100 in the adaptive files, whose confidences are not stored.
A path is a file or a directory of them (`karpathy_train_...tsv.0`, `.1`, ...).
"""

from data_pipelines.readers import lines, regions

COLUMNS = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")


class Reader:
  """See the header."""

  def __init__(self, path):
    self.files = lines.files(path)
    self.places = lines.places(self.files)

  def read(self, name: str, place) -> regions.Image:
    """The regions of one image."""
    number, offset = place
    x = lines.fields(name, self.files[number], offset, COLUMNS)
    num = lines.integer(name, "num_boxes", x["num_boxes"])
    size = [lines.integer(name, k, x[k]) for k in ("image_w", "image_h")]
    boxes = lines.array(name, "boxes", x["boxes"], "<f4", (num, 4))
    features = lines.array(name, "features", x["features"], "<f4", (num, -1))
    return regions.make(name, features, boxes, size=tuple(size))
