"""VLN-BERT's TSV files (arXiv 2004.14973): regions of panoramas of Matterport3D.

No header, a line a viewpoint, fourteen columns parted by tabs:

  scanId  viewpointId  image_w  image_h  vfov  features  boxes  cls_prob  attr_prob
  featureViewIndex  featureHeading  featureElevation  viewHeading  viewElevation

all but the first five are base64 of float32: features [n, D], boxes [n, 4] in pixels of
the region's own view, cls_prob [n, C] and attr_prob [n, A] with the background first,
and for each region the number of its view, its heading and elevation in radians;
viewHeading and viewElevation are those of the 36 views. An image is called
scanId_viewpointId.
"""

import pathlib
from typing import NamedTuple

import numpy as np

from data_pipelines.readers import lines, regions
from vlp_jax import errors

COLUMNS = ("scanId", "viewpointId", "image_w", "image_h", "vfov", "features", "boxes")
COLUMNS += ("cls_prob", "attr_prob", "featureViewIndex", "featureHeading")
COLUMNS += ("featureElevation", "viewHeading", "viewElevation")
VIEWS = 36


class Panorama(NamedTuple):
  """A viewpoint. image: its regions, with `angles`. view: [n] int32 in 0..35, the view
  of each; heading, elevation: [36] float32, of the views, radians. vfov: degrees."""

  image: regions.Image
  view: np.ndarray
  heading: np.ndarray
  elevation: np.ndarray
  vfov: float


class Reader:
  """See the header."""

  def __init__(self, path):
    self.files, self.places = lines.files(path), {}
    for number, file in enumerate(self.files):
      for name, offset in _scan(file):
        self.places.setdefault(name, [number, offset])
    if not self.places:
      raise errors.UserError(f"{self.files[0]} has no rows.")

  def read(self, name: str, place) -> regions.Image:
    """The regions of one viewpoint."""
    return self.panorama(name, place).image

  def panorama(self, name: str, place) -> Panorama:
    """All of one viewpoint; ValueError that names it if it is damaged."""
    number, offset = place
    x = lines.fields(name, self.files[number], offset, COLUMNS)
    get = lambda k, *shape: lines.array(name, k, x[k], "<f4", shape)
    boxes = lines.array(name, "boxes", x["boxes"], "<f4", (1, -1)).reshape(-1)
    if len(boxes) % 4 or not len(boxes):
      raise ValueError(f"image {name}: boxes of {len(boxes)} numbers")
    num = len(boxes) // 4
    size = [lines.integer(name, k, x[k]) for k in ("image_w", "image_h")]
    probs, attributes = get("cls_prob", num, -1), get("attr_prob", num, -1)
    if attributes.shape[1] < 2 or probs.shape[1] < 2:
      raise ValueError(f"image {name}: no classes beside the background")
    view = get("featureViewIndex", num).astype(np.int32)
    if not ((view >= 0) & (view < VIEWS)).all():
      raise ValueError(f"image {name}: views {view.min()} to {view.max()} of {VIEWS}")
    angles = np.stack([get("featureHeading", num), get("featureElevation", num)], 1)
    around = [get(k, VIEWS) for k in ("viewHeading", "viewElevation")]
    if not all(np.isfinite(a).all() for a in (angles, *around)):
      raise ValueError(f"image {name}: an angle is not finite")
    image = regions.make(
      name,
      get("features", num, -1),
      boxes.reshape(num, 4),
      size=tuple(size),
      attributes=1 + attributes[:, 1:].argmax(axis=1),
      attribute_conf=attributes[:, 1:].max(axis=1),
      conf=probs[:, 1:].max(axis=1),
      probs=probs,
      angles=angles,
    )
    return Panorama(image, view, *around, _degrees(name, x["vfov"]))


def _degrees(name, value) -> float:
  try:
    return float(value)
  except ValueError:
    raise ValueError(f"image {name}: vfov {value!r} is no number") from None


def _scan(file: pathlib.Path):
  """(name, byte offset) of each line."""
  offset = 0
  with file.open("rb") as f:
    while line := f.readline(lines.MAX_LINE):
      if len(line) == lines.MAX_LINE:
        raise errors.UserError(f"{file}: a line of over {lines.MAX_LINE} bytes.")
      parts = line[:1024].split(b"\t", 2)
      if len(parts) == 3:
        yield "_".join(p.strip().decode("utf-8", "replace") for p in parts[:2]), offset
      offset += len(line)
