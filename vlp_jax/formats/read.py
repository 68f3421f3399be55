"""Weight files of other frameworks as flat dicts of numpy arrays.

`read(path)` opens what published checkpoints come in: torch files (zip and older),
safetensors, `.npz` and `.npy`, pickles of dicts of numpy arrays (Haiku), TensorFlow
checkpoints. The format is told by the content. Nothing in a file is executed, and no
header is believed beyond the size of the file; torch and TensorFlow are not needed.
"""

import contextlib
import pathlib
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping

import numpy as np

from vlp_jax.errors import UserError
from vlp_jax.formats import bundle, numpy_file, pickles, safe, torch_file

ACCEPTED = (
  "torch (.pth, .pt, .bin), safetensors, .npz, .npy, pickles of numpy arrays, "
  "TensorFlow checkpoints (prefix, .index or directory)"
)
MAX_DEPTH, MAX_LEAVES = 32, 1_000_000
MAX_MESSAGE = 1000  # characters
DAMAGE = (
  *pickles.DAMAGE,
  OSError,
  RuntimeError,  # an encrypted zip file
  struct.error,
  tokenize.TokenError,  # in the header of an .npy file
  zipfile.BadZipFile,
  zlib.error,
)
LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # its magic, pickled


def read(path) -> dict[str, np.ndarray]:
  """All arrays of a file by name; bfloat16 becomes float32, exactly.

  Names of nested dicts are joined by "." in torch files and by "/" elsewhere; a torch
  `state_dict` inside a larger checkpoint is taken alone. What is no array (epochs,
  names, settings) is left out. A single array is called "array".

  Raises: UserError if the file is missing, damaged, of another format, declares more
    than it holds, or names anything that could be code.
  """
  with _guard(path):
    return _read(pathlib.Path(path))


@contextlib.contextmanager
def _guard(path):
  """Whatever damaged bytes make the parsers raise becomes a UserError of one line."""
  try:
    yield
  except UserError as error:  # names inside a file may hold anything
    raise UserError(" ".join(str(error).split())[:MAX_MESSAGE]) from None
  except DAMAGE as error:
    reason = " ".join(f"{type(error).__name__} {error}".split())[:MAX_MESSAGE]
    raise UserError(f"{path} is damaged or unreadable: {reason}.") from None


def _read(path):
  if path.is_dir() or path.with_name(f"{path.name}.index").is_file():
    return bundle.read(path)
  if path.suffix == ".index":
    return bundle.read(path)
  if not path.is_file():
    raise UserError(f"{path} is missing. Accepted: {ACCEPTED}.")
  name, size = str(path), path.stat().st_size
  with path.open("rb") as f:
    head = f.read(16)
    f.seek(0)
    if head[:2] == b"PK":
      return _zip(f, name)
    if head.startswith(numpy_file.MAGIC):
      return {"array": numpy_file.array(f, size, name)}
    if head.startswith(LEGACY_TORCH):
      return _torch(*torch_file.read_legacy(f, size, name), name)
    if head[8:9] == b"{":
      return safe.read(f, size, name)
    if head[:1] == b"\x80":
      found = pickles.load(f, name)
      return flatten(found, "/", lambda x: x.value, pickles.Array, name)
  raise UserError(f"{path} is of no known format. Accepted: {ACCEPTED}.")


def _zip(f, name):
  with zipfile.ZipFile(f) as archive:
    names = archive.namelist()
    if any(n.endswith("/data.pkl") for n in names):
      return _torch(*torch_file.read_zip(archive, name), name)
    return numpy_file.npz(archive, name)


def _torch(whole, storages, name):
  if isinstance(whole, Mapping) and isinstance(whole.get("state_dict"), Mapping):
    whole = whole["state_dict"]
  kinds = torch_file.Tensor, pickles.Array

  def value(x):
    return storages.view(x) if isinstance(x, torch_file.Tensor) else x.value

  return flatten(whole, ".", value, kinds, name)


def flatten(tree, joint: str, value, kinds, name: str) -> dict[str, np.ndarray]:
  """Leaves of the given kinds by their joined names; other leaves are left out.

  Raises: UserError for two leaves of one name, a tree too deep or too large, or none.
  """
  found, stack = {}, [((), tree)]
  visited = 0
  while stack:
    at, node = stack.pop()
    visited += 1
    if len(at) > MAX_DEPTH or visited > MAX_LEAVES:
      raise UserError(f"{name}: nested deeper than {MAX_DEPTH}, or too large.")
    if isinstance(node, kinds):
      key = joint.join(at) or "array"
      if key in found:
        raise UserError(f"{name}: two arrays are called {key!r}.")
      found[key] = value(node)
    elif isinstance(node, Mapping):
      if not all(isinstance(k, str | int) for k in node):
        raise UserError(f"{name}: names of arrays must be text or numbers.")
      stack += [((*at, str(k)), v) for k, v in reversed(node.items())]
    elif isinstance(node, list | tuple):
      stack += [((*at, str(k)), v) for k, v in reversed(list(enumerate(node)))]
  if not found:
    raise UserError(f"{name} holds no array.")
  return found


def npy(path) -> np.ndarray:
  """The array of one `.npy` file, never objects, never more than the file holds."""
  path = pathlib.Path(path)
  if not path.is_file():
    raise UserError(f"{path} is missing.")
  with _guard(path), path.open("rb") as f:
    return numpy_file.array(f, path.stat().st_size, str(path))


def without_prefix(arrays: Mapping[str, np.ndarray], prefix: str = "module.") -> dict:
  """The arrays with `prefix` cut off the names that begin with it.

  Raises: UserError if two names become one.
  """
  out = {k.removeprefix(prefix): v for k, v in arrays.items()}
  if len(out) != len(arrays):
    both = [k for k in arrays if f"{prefix}{k}" in arrays]
    raise UserError(f"names with and without {prefix!r}: {', '.join(both[:5])}.")
  return out
