"""Folders of features over time: a .npy or .npz file a video, at a fixed rate.

  <video>.npy                 [n, D] float16 or float32 (HowTo100M: 2D at 1/s and 3D at
                              1.5/s, each in a folder of its own; S3D at 1/s)
  <video>.npz                 the same under the key `features` (HERO's extractor), or
                              as its only array
Sub-directories are searched as well. Row k covers the seconds from k / rate on.
"""

import os
import pathlib

import numpy as np

from data_pipelines.readers import clip_row
from vlp_jax import errors
from vlp_jax.formats import read as read_lib

ENDINGS = (".npy", ".npz")


class Folder:
  """The features of one extractor.

  Attributes:
    root, rate_hz: where, and features a second.
    stems: names of the videos, with and without directories.
  """

  def __init__(self, root, rate_hz: float):
    self.root, self.rate_hz = pathlib.Path(root), float(rate_hz)
    if not self.root.is_dir():
      raise errors.UserError(f"{root} is no directory of feature files.")
    if not 0 < self.rate_hz < 1000:
      raise errors.UserError(f"{root}: a rate of {rate_hz} features a second.")
    self._stems = {}
    for folder, folders, names in os.walk(self.root):
      folders[:] = sorted(f for f in folders if f[0] != ".")
      for name in sorted(names):
        if name[0] != "." and name.endswith(ENDINGS):
          path = os.path.relpath(os.path.join(folder, name), self.root)
          path = path.replace(os.sep, "/")
          self._stems.setdefault(path.rpartition(".")[0], path)
          self._stems.setdefault(name.rpartition(".")[0], path)
    if not self._stems:
      raise errors.UserError(f"{root} holds no .npy or .npz files.")

  @property
  def stems(self):
    return self._stems.keys()

  def find(self, row: clip_row.ClipRow) -> str | None:
    """Path below the root of a row's features, None if they are not there."""
    for name in (row.media, *row.also):
      for plain in (name, name.rpartition(".")[0]):
        for stem in (plain, plain.rpartition("/")[2]):
          if stem and stem in self._stems:
            return self._stems[stem]
    return None


def load(path) -> np.ndarray:
  """[n, D] float32 of a file; never objects.

  Raises: UserError or ValueError if it is damaged or of another form.
  """
  path = pathlib.Path(path)
  if path.suffix == ".npz":
    arrays = read_lib.read(path)
    if "features" not in arrays and len(arrays) != 1:
      raise ValueError(f"{path.name} holds {sorted(arrays)[:5]}; expected 'features'.")
    name = "features" if "features" in arrays else next(iter(arrays))
    x = np.asarray(arrays[name])
  else:
    x = np.asarray(read_lib.npy(path))
  if x.ndim != 2 or x.dtype.kind != "f":
    raise ValueError(
      f"{path.name} is {x.dtype}{list(x.shape)}; expected floats [n, D]."
    )
  return x.astype(np.float32)


def places(start: float, end: float, rate_hz: float, num: int) -> tuple[int, int]:
  """First and last + 1 of a clip's features: int(start r), int(end r) + 1.

  As in the HowTo100M code. Empty where the features end before the clip.
  """
  return min(int(start * rate_hz), num), min(int(end * rate_hz) + 1, num)
