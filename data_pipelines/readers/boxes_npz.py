"""Detectors' own output: an .npz an image, arrays by the detector's names.

  features             [n, D]; or box_features, roi_features
  boxes                [n, 4] x1 y1 x2 y2 in pixels; or pred_boxes (Detectron2)
  image_size           (height, width) in pixels; or image_h and image_w
  scores               [n], confidences; or conf
  labels               [n], torchvision's classes, 0 = background
  pred_classes         [n], Detectron2's classes, which have no background
  attributes           [n], from 1 on; attr_scores [n]
  probs                [n, C], index 0 = background; or cls_prob, soft_labels

The first three are needed. A path is a directory of `<image>.npz`, searched below too.
"""

import pathlib

from data_pipelines.readers import packed, regions
from vlp_jax import errors

MAX_BYTES = 1 << 28  # of one file
NAMES = {
  "features": ("features", "box_features", "roi_features"),
  "boxes": ("boxes", "pred_boxes"),
  "conf": ("scores", "conf"),
  "objects": ("labels",),
  "attributes": ("attributes",),
  "attribute_conf": ("attr_scores",),
  "probs": ("probs", "cls_prob", "soft_labels"),
}


def places(path, endings=(".npz",)) -> dict[str, str]:
  """{plain image name: path below `path`} of the files of a directory.

  Raises: UserError if there is none, or two have one name.
  """
  path, found = pathlib.Path(path), {}
  for at in sorted(path.rglob("*")) if path.is_dir() else ():
    if at.suffix in endings and at.is_file():
      name = at.name.removesuffix(at.suffix)
      if name in found:
        raise errors.UserError(f"{path}: {found[name]} and {at} are both {name}.")
      found[name] = at.relative_to(path).as_posix()
  if not found:
    raise errors.UserError(f"{path}: no <image>{'|'.join(endings)} is there.")
  return found


def read_bytes(name: str, path) -> bytes:
  """A file of at most 256 MB; ValueError that names the image otherwise."""
  try:
    if path.stat().st_size > MAX_BYTES:
      raise ValueError(f"image {name}: {path} has over {MAX_BYTES} bytes")
    return path.read_bytes()
  except OSError as error:
    raise ValueError(f"image {name}: {path}: {error.strerror}") from None


class Reader:
  """See the header."""

  def __init__(self, path):
    self.path, self.places = pathlib.Path(path), places(path)

  def read(self, name: str, place) -> regions.Image:
    """The regions of one image."""
    data = read_bytes(name, self.path / place)
    try:
      x = packed.npz(data, scalars=True)
    except ValueError as error:
      raise ValueError(f"image {name}: {error}") from None
    found = {k: _first(x, own) for k, own in NAMES.items()}
    if found["objects"] is None and "pred_classes" in x:
      found["objects"] = x["pred_classes"] + 1
    missing = [k for k in ("features", "boxes") if found[k] is None]
    if missing:
      have = ", ".join(sorted(x)) or "nothing"
      raise ValueError(f"image {name}: no {missing[0]} among {have}")
    return regions.make(name, size=_size(name, x), **found)


def _first(x, names):
  return next((x[k] for k in names if k in x), None)


def _size(name, x) -> tuple[float, float]:
  """(width, height)."""
  size = x.get("image_size")
  if size is None and {"image_h", "image_w"} <= set(x):
    size = [x["image_h"], x["image_w"]]
  try:
    height, width = map(float, size)
  except (TypeError, ValueError):
    raise ValueError(
      f"image {name}: image_size (height, width) is missing or {size!r}"
    ) from None
  return width, height
