"""VLP's HDF5 files (arXiv 1909.11059): features, classes and boxes by image id.

A directory with `*_feat{ddd}.h5` ([n, D], after Detectron's fc6) and `*_cls{ddd}.h5`
([n, C], index 0 = background), ddd the last three digits of the image id, and one
`*_bbox*.h5` ([n, 6]: x1 y1 x2 y2 in pixels, conf, ...); data sets are named by the id.

The image size is not stored: coordinates are divided by the largest x and y of the
boxes (+ 1e-5), as the published code does. Needs the package `h5py`.
"""

import pathlib

import numpy as np

from data_pipelines.readers import regions
from vlp_jax import errors

MAX_BYTES = 1 << 26  # of one data set: a header is not believed
EPS = 1e-5


def _module():
  try:
    import h5py
  except ImportError:
    raise errors.UserError(
      "HDF5 files need the package h5py: pip install -r requirements.txt"
    ) from None
  return h5py


def _open(path):
  try:
    return _module().File(path, "r", locking=False)  # a read-only disk has no locks
  except OSError as error:
    raise errors.UserError(f"{path} cannot be read as HDF5: {error}.") from None


class Reader:
  """See the header."""

  def __init__(self, path):
    self.path = pathlib.Path(path)
    boxes = sorted(self.path.glob("*_bbox*.h5"))
    if len(boxes) != 1:
      names = ", ".join(p.name for p in boxes) or "none"
      raise errors.UserError(f"{path}: one *_bbox*.h5 is expected; found {names}.")
    self.open = {"bbox": _open(boxes[0])}
    self.places = {name: name for name in self.open["bbox"]}
    if not self.places:
      raise errors.UserError(f"{boxes[0]} names no image.")

  def _file(self, kind: str, ending: str):
    """The open file of a kind and an ending; None if there is none."""
    key = f"{kind}{ending}"
    if key not in self.open:
      found = sorted(self.path.glob(f"*_{key}.h5"))
      if len(found) > 1:
        raise errors.UserError(
          f"{self.path}: {', '.join(p.name for p in found)} are both *_{key}.h5."
        )
      self.open[key] = _open(found[0]) if found else None
    return self.open[key]

  def _array(self, kind, ending, name):
    file = self._file(kind, ending)
    if file is None:
      return None
    h5py = _module()
    try:
      link, data = file.get(name, getlink=True), None
      if isinstance(link, h5py.HardLink):  # others lead out of the file
        data = file[name]
      if not isinstance(data, h5py.Dataset):
        raise ValueError(f"image {name}: not in {file.filename}")
      plain = data.dtype.kind == "f" and not data.external and not data.is_virtual
      if not plain or data.ndim != 2 or data.size * data.dtype.itemsize > MAX_BYTES:
        raise ValueError(
          f"image {name}: {data.dtype}{list(data.shape)} in {file.filename} is no "
          "plain array of numbers"
        )
      return data[()]
    except (OSError, RuntimeError, KeyError) as error:
      raise ValueError(
        f"image {name}: {file.filename} is damaged there ({error})"
      ) from None

  def read(self, name: str, place) -> regions.Image:
    """The regions of one image."""
    ending = str(place)[-3:]
    boxes = self._array("bbox", "", place)
    features = self._array("feat", ending, place)
    if features is None:
      raise ValueError(f"image {name}: no *_feat{ending}.h5 in {self.path}")
    probs = self._array("cls", ending, place)
    if len(boxes) == 0 or boxes.shape[1] < 5:
      raise ValueError(f"image {name}: no regions (boxes of shape {boxes.shape})")
    size = np.maximum(boxes[:, [0, 2]].max(), 0), np.maximum(boxes[:, [1, 3]].max(), 0)
    image = regions.make(
      name,
      features,
      boxes[:, :4],
      size=tuple(float(n) + EPS for n in size),
      conf=boxes[:, 4],
      probs=probs,
    )
    return image._replace(width=None, height=None)  # these were of the boxes
