"""LMDB environments, read only: no lock file, nothing written, no code run.

Needs the package `lmdb` (requirements.txt).
"""

import pathlib
from collections.abc import Iterator

from vlp_jax import errors

DATA = "data.mdb"


def _module():
  try:
    import lmdb
  except ImportError:
    raise errors.UserError(
      "LMDB files need the package lmdb: pip install -r requirements.txt"
    ) from None
  return lmdb


def is_file(path) -> bool:
  """Whether an environment lies at the path."""
  path = pathlib.Path(path)
  alone = path.suffix in (".lmdb", ".mdb") and path.is_file()
  return alone or (path / DATA).is_file()


class File:
  """An open environment: `get`, and `items` in the order of the keys.

  Opened without a lock, so that a read-only disk will do; nobody may write meanwhile.
  Raises: UserError with the path if it is missing, damaged or no environment.
  """

  def __init__(self, path):
    self.path = pathlib.Path(path)
    if not is_file(self.path):
      raise errors.UserError(f"{path}: no LMDB environment ({DATA}) is there.")
    lmdb = _module()
    try:
      env = lmdb.open(
        str(self.path),
        subdir=self.path.is_dir(),
        readonly=True,
        lock=False,
        create=False,
        readahead=False,
        meminit=False,
      )
      self._begin = env.begin
      need = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    except (lmdb.Error, OSError) as error:
      raise errors.UserError(f"{path} cannot be read as LMDB: {error}.") from None
    self._error = lmdb.Error
    data = self.path / DATA if self.path.is_dir() else self.path
    if need > data.stat().st_size:  # pages beyond the end would kill the process
      raise errors.UserError(
        f"{data} is cut off: {data.stat().st_size} of {need} bytes are there."
      )

  def get(self, key: str) -> bytes | None:
    """The value of a key, None if there is none."""
    try:
      with self._begin() as txn:
        return txn.get(key.encode())
    except self._error as error:
      raise ValueError(f"image {key}: {self.path} is damaged there: {error}") from None

  def items(self, values: bool = True) -> Iterator[tuple[str, bytes]]:
    """(key, value) of all entries; the value is empty unless asked for."""
    try:
      with self._begin() as txn:
        for found in txn.cursor().iternext(keys=True, values=values):
          key, value = found if values else (found, b"")
          yield bytes(key).decode("utf-8", "replace"), value
    except self._error as error:
      raise errors.UserError(f"{self.path} is damaged: {error}.") from None
