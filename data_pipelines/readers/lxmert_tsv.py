"""LXMERT's TSV files (arXiv 1908.07490): bottom-up attention with classes.

No header, a line an image, ten columns parted by tabs, the height before the width:

  img_id  img_h  img_w  objects_id  objects_conf  attrs_id  attrs_conf  num_boxes
  boxes  features

in base64: ids int64 [n], confidences float32 [n], boxes float32 [n, 4] in pixels,
features float32 [n, D]; n = 36. Ids are 0..1599 and 0..399 without a background class;
one is added, since 0 is the background here. Boxes must lie inside to 1e-5.
"""

from data_pipelines.readers import lines, regions

COLUMNS = ("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id")
COLUMNS += ("attrs_conf", "num_boxes", "boxes", "features")
TOLERANCE = 1e-5


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
    size = [lines.integer(name, k, x[k]) for k in ("img_w", "img_h")]
    get = lambda k, kind, *shape: lines.array(name, k, x[k], kind, (num, *shape))
    return regions.make(
      name,
      get("features", "<f4", -1),
      get("boxes", "<f4", 4),
      size=tuple(size),
      tolerance=TOLERANCE,
      objects=get("objects_id", "<i8") + 1,
      attributes=get("attrs_id", "<i8") + 1,
      conf=get("objects_conf", "<f4"),
      attribute_conf=get("attrs_conf", "<f4"),
    )
