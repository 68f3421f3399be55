"""Folders of arrays: UNITER's .npz, as extracted, or .npy of features and of boxes.

Two layouts of a directory:

  <image>.npz             features [n, D], norm_bb [n, 4 or more] x1 y1 x2 y2 in 0..1;
                          if there conf [n], soft_labels [n, C], background at 0. What
                          UNITER's LMDBs are made of, cut by the same rule.
  features/<image>.npy    [n, D], or .npz with `feat`; and boxes/<image>.npy [n, 4] in
                          pixels of sizes.json {image: [width, height]}, without that
                          file in 0..1. The layout of captioning code (cocobu_att,
                          cocobu_box).

No pickles: object arrays are refused.
"""

import json
import pathlib

from data_pipelines.readers import boxes_npz, packed, regions, uniter_lmdb
from vlp_jax import errors

FEATURES, BOXES, SIZES = "features", "boxes", "sizes.json"


class Reader:
  """See the header.

  Args:
    conf_th, max_bb, min_bb: UNITER's rule of how many regions count.
  """

  def __init__(self, path, conf_th: float = 0.2, max_bb: int = 100, min_bb: int = 10):
    self.path, self.rule = pathlib.Path(path), (conf_th, max_bb, min_bb)
    self.apart, self.sizes = (self.path / BOXES).is_dir(), {}
    at = self.path / FEATURES if self.apart else self.path
    endings = (".npy", ".npz") if self.apart else (".npz",)
    self.places = boxes_npz.places(at, endings)
    if self.apart and (self.path / SIZES).is_file():
      try:
        self.sizes = dict(json.loads((self.path / SIZES).read_bytes()))
      except (ValueError, TypeError) as error:
        raise errors.UserError(f"{self.path / SIZES}: {error}.") from None

  def read(self, name: str, place) -> regions.Image:
    """The regions of one image."""
    try:
      return self._parts(name, place) if self.apart else self._whole(name, place)
    except (KeyError, TypeError) as error:
      raise ValueError(f"image {name}: {type(error).__name__} {error}") from None

  def _arrays(self, name, at) -> dict:
    data = boxes_npz.read_bytes(name, at)
    try:
      return packed.npz(data) if at.suffix == ".npz" else {"feat": packed.npy(data)}
    except ValueError as error:
      raise ValueError(f"image {name}: {error}") from None

  def _whole(self, name, place):
    x = self._arrays(name, self.path / place)
    found = {k: x[k] for k in ("features", "soft_labels") if k in x}
    return uniter_lmdb.make(name, found, x["norm_bb"], x.get("conf"), self.rule)

  def _parts(self, name, place):
    features = self._arrays(name, self.path / FEATURES / place)["feat"]
    boxes = self._arrays(name, self.path / BOXES / f"{name}.npy")["feat"]
    pixels = (self.path / SIZES).is_file()
    size = tuple(map(float, self.sizes[name])) if pixels else None
    if boxes.ndim != 2 or boxes.shape[1] < 4:
      raise ValueError(f"image {name}: boxes of shape {boxes.shape}")
    return regions.make(name, features, boxes[:, :4], size=size, pixels=pixels)
