"""`.npy` and `.npz` files: no pickles, no memory that the file cannot fill."""

import math
import zipfile
from typing import BinaryIO

import numpy as np

from vlp_jax.errors import UserError

MAGIC = b"\x93NUMPY"
RATIO = 200  # of a compressed archive, once it is large
LARGE = 1 << 26
MAX_MEMBERS = 100_000

_HEADERS = {
  (1, 0): np.lib.format.read_array_header_1_0,
  (2, 0): np.lib.format.read_array_header_2_0,
}


def array(stream: BinaryIO, size: int, name: str) -> np.ndarray:
  """The array of an open `.npy` file of `size` bytes.

  Raises: UserError for objects, and for a header that declares more than is there.
  """
  try:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
      raise UserError(f"{name}: .npy version {version}; 1.0 and 2.0 are read.")
    shape, fortran, dtype = _HEADERS[version](stream)
  except ValueError as error:
    reason = str(error).split("\n", maxsplit=1)[0]
    raise UserError(f"{name} is no .npy array: {reason}") from None
  if dtype.hasobject:
    raise UserError(f"{name} holds Python objects, which can carry code; not read.")
  need = math.prod(shape) * dtype.itemsize
  if any(n < 0 for n in shape) or need > size:
    raise UserError(f"{name} declares {need} bytes in a file of {size}.")
  raw = stream.read(need)
  if len(raw) != need:
    raise UserError(f"{name} is cut off: {len(raw)} of {need} bytes.")
  flat = np.frombuffer(raw, dtype) if need else np.zeros(math.prod(shape), dtype)
  return flat.reshape(shape, order="F" if fortran else "C")


def members(archive: zipfile.ZipFile, name: str) -> list[zipfile.ZipInfo]:
  """The members of a zip file.

  Raises: UserError if there are too many, they overlap, or expand beyond reason.
  """
  found = archive.infolist()
  packed, whole = (
    sum(getattr(m, k) for m in found) for k in ("compress_size", "file_size")
  )
  size = archive.fp.seek(0, 2)
  if len(found) > MAX_MEMBERS or packed > size or whole > max(LARGE, RATIO * size):
    raise UserError(
      f"{name}: {len(found)} members of {packed} bytes that expand to {whole}, in a "
      f"file of {size}; this is no weight file."
    )
  return found


def npz(archive: zipfile.ZipFile, name: str) -> dict[str, np.ndarray]:
  """All arrays of an open `.npz` file."""
  arrays = {}
  for m in members(archive, name):
    if not m.filename.endswith(".npy"):
      raise UserError(f"{name}: member {m.filename} of an .npz is no .npy array.")
    with archive.open(m) as stream:
      key = m.filename.removesuffix(".npy")
      arrays[key] = array(stream, m.file_size, f"{name}: {m.filename}")
  return arrays
