"""Values inside databases and files: msgpack with arrays, LZ4 frames, `.npz`, pickles.

Arrays in msgpack are those of `msgpack_numpy`: maps {nd, type, kind, shape, data}.
Objects, which it would unpickle, are refused; so is what else could run code, and no
header is believed beyond the bytes that are there. Damage is a ValueError.
"""

import functools
import io
import math
import pathlib
import struct
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from vlp_jax import errors
from vlp_jax.formats import numpy_file, pickles

MAX_UNPACKED = 1 << 26  # bytes of one LZ4 frame: texts


def _text(key):
  return key.decode("utf-8", "replace") if isinstance(key, bytes) else key


def _array(found: Mapping) -> np.ndarray:
  kind, dtype = _text(found.get("kind", b"")), found.get("type")
  if kind == "O" or not isinstance(dtype, bytes | str):
    raise ValueError("an array of Python objects or records, which is not read")
  dtype = np.dtype(_text(dtype))
  if dtype.kind not in "biuf":
    raise ValueError(f"an array of {dtype}, which is not read")
  shape, data = tuple(found.get("shape", ())), found["data"]
  if any(not isinstance(n, int) or n < 0 for n in shape):
    raise ValueError(f"an array of shape {shape}")
  if math.prod(shape) * dtype.itemsize != len(data):
    raise ValueError(f"{dtype}{list(shape)} in {len(data)} bytes")
  return np.frombuffer(data, dtype).reshape(shape)


def _hook(found: dict):
  found = {_text(k): v for k, v in found.items()}
  if "nd" not in found:
    return found
  array = _array(found)
  return array if found["nd"] else array[()]


def msgpack(data: bytes):
  """The object, keys and texts as str where they are UTF-8, arrays as numpy's.

  Raises: ValueError on damage, or for an array of objects.
  """
  import msgpack as library  # flax needs it too

  try:
    return _strings(
      library.unpackb(data, raw=True, strict_map_key=False, object_hook=_hook)
    )
  except (ValueError, TypeError, KeyError, RecursionError) as error:
    raise ValueError(f"damaged msgpack: {type(error).__name__} {error}") from None
  except library.exceptions.UnpackException as error:
    raise ValueError(f"damaged msgpack: {error}") from None


def _strings(value):
  if isinstance(value, dict):
    return {k: _strings(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [_strings(v) for v in value]
  if isinstance(value, bytes):
    try:
      return value.decode()
    except UnicodeDecodeError:
      return value
  return value


def lz4(data: bytes) -> bytes:
  """The content of an LZ4 frame of at most 64 MB.

  Raises: ValueError on damage, UserError without the package.
  """
  try:
    import lz4.frame as library
  except ImportError:
    raise errors.UserError(
      "LZ4 frames need the package lz4: pip install -r requirements.txt"
    ) from None
  try:
    opened = library.LZ4FrameDecompressor()
    out = opened.decompress(data, max_length=MAX_UNPACKED)
  except (RuntimeError, EOFError, ValueError) as error:
    raise ValueError(f"damaged LZ4 frame: {error}") from None
  if not opened.eof:
    raise ValueError(f"an LZ4 frame that is cut off or over {MAX_UNPACKED} bytes")
  return out


def npz(data: bytes, *, scalars: bool = False) -> dict[str, np.ndarray]:
  """All arrays; those without axes only on demand (some hold a stray `allow_pickle`).

  Raises: ValueError on damage, or for an array of objects.
  """
  damage = (zipfile.BadZipFile, zlib.error, struct.error, OSError, ValueError)
  damage += (RuntimeError, NotImplementedError, EOFError, KeyError, SyntaxError)
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      found = numpy_file.npz(archive, "the .npz")
  except (errors.UserError, *damage) as error:
    raise ValueError(f"damaged .npz: {error}") from None
  return {k: v for k, v in found.items() if v.ndim or scalars}


def npy(data: bytes) -> np.ndarray:
  """The array of the bytes of a `.npy` file.

  Raises: ValueError on damage, or for an array of objects.
  """
  try:
    return numpy_file.array(io.BytesIO(data), len(data), "the .npy")
  except (errors.UserError, ValueError, SyntaxError, EOFError) as error:
    raise ValueError(f"damaged .npy: {error}") from None


def pickled(data: bytes):
  """The object of a pickle of arrays, numbers, texts, lists and dicts; no code runs.

  Arrays of objects become lists of what they hold, and numpy's scalars and arrays
  without axes the numbers and texts that they are, by the same rule.
  Raises: ValueError on damage, or if it names anything else.
  """
  return _unpickled(io.BytesIO(data), "the pickle")


def pickle_file(path):
  """`pickled` of a file; UserError with its path if that cannot be read."""
  try:
    with pathlib.Path(path).open("rb") as f:
      return _unpickled(f, str(path))
  except OSError as error:
    raise errors.UserError(f"{path}: {error.strerror or error}.") from None
  except ValueError as error:
    raise errors.UserError(f"{error}.") from None


def _unpickled(file, name: str):
  try:
    return _plain(pickles.load(file, name, known=_names()))
  except errors.UserError as error:
    raise ValueError(str(error).strip(" .")) from None


class _Kind(pickles.Dtype):
  """A numpy dtype that may also be of objects."""

  __slots__ = ()

  def checked(self):
    return self if self.text in ("O", "O8") else super().checked()


class _Listed(pickles.Array):
  """A numpy array; one of objects is the list that the pickle holds."""

  __slots__ = ()

  def build(self, state):
    _, shape, dtype, _, held = state
    if dtype.text not in ("O", "O8"):
      return super().build(state)
    if not isinstance(held, list) or tuple(shape) != (len(held),):
      raise errors.UserError(f"an array of objects of shape {shape}; lists are read.")
    self.value = held
    return self


@functools.cache
def _names() -> dict:
  """Stand-ins as for weights, and arrays of objects as the lists that they are."""
  known = pickles.names() | {("numpy", "dtype"): pickles.Function(_Kind)}
  for core in ("numpy.core", "numpy._core"):
    known[f"{core}.multiarray", "_reconstruct"] = pickles.Function(_Listed)
  return known


def _plain(x, depth=0):
  if depth > 32:
    raise ValueError("a pickle nested deeper than 32")
  if isinstance(x, pickles.Array):
    x = x.value
    if isinstance(x, np.ndarray):
      return x if x.ndim else x.item()
    return _plain(x, depth + 1)
  if isinstance(x, Mapping):
    return {_plain(k, depth + 1): _plain(v, depth + 1) for k, v in x.items()}
  if isinstance(x, list | tuple):
    return [_plain(v, depth + 1) for v in x]
  if isinstance(x, bytes | bytearray | str | int | float | None):
    return x
  raise ValueError(f"a pickle with a {type(x).__name__}")
