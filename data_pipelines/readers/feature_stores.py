"""Features over time of many videos in one place: folders, HERO's LMDBs, pickles.

  a directory of .npy and .npz files    `feature_files.py`
  an LMDB directory                     HERO (arXiv 2005.00200): `resnet_slowfast_1.5`,
                                        `..._compressed`; key: the video, or video.clip
                                        for clips of 60 s; value: a msgpack map or the
                                        bytes of an .npz with `features` [n, D]. Seconds
                                        a feature are the last part of the name
  .pickle, .pkl, .pth                   {video: [n, D]} (UniVL, Just Ask), read whole.
                                        With "#2d" behind the path {"2d": {video: ...}},
                                        or the entry "2d" of a list of {"id": ..., "2d":
                                        [D] or [n, D], ...} (HowTo100M's test features)

Nothing in a file is executed. A store has `root`, `rate_hz`, `stems`, `find(row)`; its
features are read with `load(root, place)`, also in another process.
"""

import functools
import pathlib
import re

import numpy as np

from data_pipelines.readers import clip_row, feature_files, lmdb_file, packed
from vlp_jax import errors
from vlp_jax.formats import read as read_lib

PICKLES = (".pickle", ".pkl", ".pth", ".pt")
AUTO = "auto"
_PERIOD = re.compile(r"_(\d+(?:\.\d+)?)(?:_compressed)?$")


class Store:
  """A file or database of features by video.

  Attributes:
    root: of `load`. rate_hz: features a second. stems: videos.
  """

  def __init__(self, root: str, rate_hz: float, stems):
    self.root, self.rate_hz, self.stems = root, float(rate_hz), stems
    if not 0 < self.rate_hz < 1000:
      raise errors.UserError(f"{root}: a rate of {rate_hz} features a second.")
    if not self.stems:
      raise errors.UserError(f"{root} holds no features.")

  def find(self, row: clip_row.ClipRow) -> str | None:
    """Key of a row's features, None if they are not there."""
    for name in (row.media, *row.also):
      for plain in (name, name.rpartition(".")[0]):
        for stem in (plain, plain.rpartition("/")[2]):
          if stem and stem in self.stems:
            return stem
    return None


def opened(root: str, rate: str | float):
  """The store at a path.

  Args:
    rate: features a second, or "auto" where the name of an LMDB says it.
  Raises: UserError if nothing of the kind is there, or name and rate differ.
  """
  path, _, _ = str(root).partition("#")
  if lmdb_file.is_file(path):
    return Store(str(root), _rate(path, rate), _database(path)[1])
  if pathlib.Path(path).suffix in PICKLES:
    return Store(str(root), _number(path, rate), _whole(str(root)).keys())
  return feature_files.Folder(path, _number(path, rate))


def load(root: str, place: str) -> np.ndarray:
  """[n, D] float32 of one video.

  Raises: UserError or ValueError if it is damaged or of another form.
  """
  path, _, _ = str(root).partition("#")
  if lmdb_file.is_file(path):
    return _of_database(path, place)
  if pathlib.Path(path).suffix in PICKLES:
    return _checked(place, _whole(str(root))[place])
  return feature_files.load(f"{root}/{place}")


def _number(path, rate) -> float:
  try:
    return float(rate)
  except ValueError:
    raise errors.UserError(
      f"{path}: rate {rate!r}; features a second, numbers expected."
    ) from None


def _rate(path, rate) -> float:
  """Features a second of an LMDB, by its name and as given."""
  told = _PERIOD.search(pathlib.Path(path).name)
  if rate == AUTO:
    if told is None:
      raise errors.UserError(
        f"{path}: its name does not end with seconds a feature, as "
        "resnet_slowfast_1.5; give --rates."
      )
    return 1 / float(told[1])
  rate = _number(path, rate)
  if told is not None and abs(rate * float(told[1]) - 1) > 0.01:
    raise errors.UserError(
      f"{path} has a feature each {told[1]} s by its name, but the rate is {rate:g} a "
      f"second. Give --rates auto, or {1 / float(told[1]):.6g}."
    )
  return rate


@functools.lru_cache(maxsize=8)
def _database(path: str):
  """(open LMDB, its keys), once a process."""
  file = lmdb_file.File(path)
  return file, {k for k, _ in file.items(values=False) if not k.startswith("__")}


def _of_database(path, place) -> np.ndarray:
  value = _database(path)[0].get(place)
  if value is None:
    raise ValueError(f"{place} is not in {path}")
  x = packed.npz(value) if value[:2] == b"PK" else packed.msgpack(value)
  if not isinstance(x, dict) or "features" not in x:
    raise ValueError(f"{place}: no 'features' in its record")
  return _checked(place, x["features"])


def _checked(place, x) -> np.ndarray:
  x = np.asarray(x)
  x = x[None] if x.ndim == 1 else x
  if x.ndim != 2 or x.dtype.kind != "f":
    raise ValueError(f"{place} is {x.dtype}{list(x.shape)}; expected floats [n, D].")
  return x.astype(np.float32)


@functools.lru_cache(maxsize=2)
def _whole(root: str) -> dict:
  """{video: array} of a file, once a process."""
  path, _, part = root.partition("#")
  path = pathlib.Path(path)
  if not path.is_file():
    raise errors.UserError(f"{path} is missing.")
  if path.suffix in (".pth", ".pt"):
    found = read_lib.read(path)
    if part:
      found = {
        k.removeprefix(f"{part}."): x
        for k, x in found.items()
        if k.startswith(f"{part}.")
      }
  else:
    found = packed.pickle_file(path)
    if isinstance(found, list):
      found = _listed(path, found, part)
    elif part:
      found = found.get(part)
  if not isinstance(found, dict) or not found:
    raise errors.UserError(f"{root} holds no features by video, {{video: array}}.")
  return {str(k): x for k, x in found.items()}


def _listed(path, rows, part) -> dict:
  if not part:
    raise errors.UserError(f"{path} is a list; say which entry, as {path}#2d.")
  try:
    return {str(row["id"]): row[part] for row in rows}
  except (KeyError, TypeError) as error:
    raise errors.UserError(f"{path}#{part}: {type(error).__name__} {error}.") from None
