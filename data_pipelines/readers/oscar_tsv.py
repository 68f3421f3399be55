"""OSCAR's feature files (arXiv 2004.06165): features with boxes, and predictions.

A directory with

  features.tsv      image_id, num_boxes, base64 of float32 [n, D + 6], in tabs: D
                    features and x1/W y1/H x2/W y2/H w/W h/H
  features.lineidx  byte offset of each line; imageid2idx.json: image id -> line; both
                    may be missing
  predictions.tsv   image_id and a JSON {image_h, image_w, objects: [{class, rect: [x1,
                    y1, x2, y2] in pixels, conf}]}; may be missing

Tags are the class names in the order of the file. Ids of the classes need the list of
names that the detector was trained with (`objects_file`: a name a line, aliases parted
by commas). Confidences and classes belong to the features if there are as many.
"""

import json
import pathlib

from data_pipelines.readers import lines, regions
from vlp_jax import errors

FEATURES, PREDICTIONS, NUMBERS = "features.tsv", "predictions.tsv", "imageid2idx.json"
BOX = 6  # columns after the features


class Reader:
  """See the header."""

  def __init__(self, path, objects_file: str = ""):
    path = pathlib.Path(path)
    features = path / FEATURES if path.is_dir() else path
    self.files = lines.files(features)
    if (features.parent / NUMBERS).is_file() and _has_offsets(features):
      self.places = _numbered(features)
    else:
      self.places = lines.places(self.files)
    self.predictions, told = features.parent / PREDICTIONS, {}
    if self.predictions.is_file():
      told = lines.places([self.predictions])
    self.told = told
    names = class_names(objects_file) if objects_file else ()
    self.classes = {alias: i for i, name in enumerate(names, 1) for alias in name}

  def read(self, name: str, place) -> regions.Image:
    """The regions of one image."""
    number, offset = place
    columns = ("image_id", "num_boxes", "features")
    x = lines.fields(name, self.files[number], offset, columns)
    found = x["image_id"].strip().decode("utf-8", "replace")
    if found != name:
      raise ValueError(f"image {name}: image {found} lies where the index has it")
    num = lines.integer(name, "num_boxes", x["num_boxes"])
    both = lines.array(name, "features", x["features"], "<f4", (num, -1))
    if both.shape[1] <= BOX:
      raise ValueError(
        f"image {name}: rows of {both.shape[1]} numbers, of which 6 a box"
      )
    more = self._predicted(name, num) if name in self.told else {}
    return regions.make(name, both[:, :-BOX], both[:, -BOX:-2], pixels=False, **more)

  def _predicted(self, name, num) -> dict:
    offset = self.told[name][1]
    text = lines.fields(name, self.predictions, offset, ("image_id", "json"))["json"]
    try:
      x = json.loads(text)
      size = float(x["image_w"]), float(x["image_h"])
      kinds = tuple(str(o["class"]) for o in x["objects"])
      conf = [float(o["conf"]) for o in x["objects"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
      reason = f"{type(error).__name__} {error}"
      raise ValueError(f"image {name}: {self.predictions.name}: {reason}") from None
    more = {"size": size, "tags": kinds}
    if len(kinds) == num:
      more["conf"] = conf
      if self.classes:
        unknown = [k for k in kinds if k not in self.classes]
        if unknown:
          raise ValueError(f"image {name}: class {unknown[0]!r} is not of the list")
        more["objects"] = [self.classes[k] for k in kinds]
    return more


def _has_offsets(features) -> bool:
  own = features.with_suffix(".lineidx")
  return own.is_file() or features.with_name(f"{features.name}.lineidx").is_file()


def _numbered(features) -> dict[str, list]:
  """Places from `imageid2idx.json` and `.lineidx`, without touching the features."""
  at = features.parent / NUMBERS
  own = features.with_suffix(".lineidx")
  own = own if own.is_file() else features.with_name(f"{features.name}.lineidx")
  try:
    offsets = [int(n) for n in own.read_text().split()]
    numbers = {str(k): int(v) for k, v in json.loads(at.read_bytes()).items()}
    if min(numbers.values(), default=0) < 0:
      raise IndexError("a negative line")
    return {name: [0, offsets[k]] for name, k in numbers.items()}
  except (ValueError, TypeError, AttributeError, IndexError) as error:
    raise errors.UserError(f"{at} and {own.name} do not fit: {error}.") from None


def class_names(file) -> list[tuple[str, ...]]:
  """Names of the classes 1, 2, ...: a line each, aliases parted by commas."""
  path = pathlib.Path(file)
  if not path.is_file():
    raise errors.UserError(f"{path} is missing: a file of class names, one a line.")
  rows = path.read_text().splitlines()
  return [tuple(a.strip() for a in row.split(",")) for row in rows if row.strip()]
