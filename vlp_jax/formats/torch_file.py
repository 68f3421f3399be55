"""Files of `torch.save`, zip format and the older one, without torch.

Both hold a pickle whose tensors are views (offset, size, stride) of storages that lie
beside it as raw little-endian bytes.
"""

import math
import reprlib
import struct
import zipfile
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from vlp_jax.errors import UserError
from vlp_jax.formats import dtypes, numpy_file, pickles

MAX_PICKLE = 1 << 28
MAX_COPIES = 1 << 26  # bytes of transposed and repeated views, beside twice the file
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
STORAGES = {
  "DoubleStorage": "<f8",
  "FloatStorage": "<f4",
  "HalfStorage": "<f2",
  "BFloat16Storage": dtypes.BFLOAT16,
  "LongStorage": "<i8",
  "IntStorage": "<i4",
  "ShortStorage": "<i2",
  "CharStorage": "i1",
  "ByteStorage": "u1",
  "BoolStorage": "?",
  "ComplexFloatStorage": "<c8",
  "ComplexDoubleStorage": "<c16",
}


class Storage(NamedTuple):
  """What a persistent id says; the bytes are looked up by `key`."""

  dtype: str
  key: str
  size: int


class Tensor(NamedTuple):
  """A view of a storage, in elements."""

  storage: Storage
  offset: int
  shape: tuple[int, ...]
  stride: tuple[int, ...]


class Named:
  """The element type that stands for a storage class in a pickle."""

  __slots__ = ("dtype",)

  def __init__(self, dtype):
    self.dtype = dtype


def _rebuild(storage, offset, shape, stride, *_):
  if not isinstance(storage, Storage):
    raise UserError("a tensor without a storage.")
  return Tensor(storage, int(offset), tuple(map(int, shape)), tuple(map(int, stride)))


def _known() -> dict:
  known = pickles.names() | {("torch", k): Named(v) for k, v in STORAGES.items()}
  function = pickles.Function
  known["torch._utils", "_rebuild_tensor_v2"] = function(_rebuild)
  known["torch._utils", "_rebuild_parameter"] = function(lambda data, *_: data)
  known["torch", "Size"] = function(tuple)
  known["torch", "device"] = function(lambda *_: pickles.Inert())
  return known


def _storage(pid) -> Storage:
  kind, dtype, key, _, size = pid[:5]
  view = pid[5] if len(pid) > 5 else None
  if kind != "storage" or not isinstance(dtype, Named) or view is not None:
    raise UserError(f"a reference {reprlib.repr(pid)}, which is no plain storage.")
  return Storage(dtype.dtype, str(key), int(size))


class Storages:
  """Bytes of storages by key, and the tensors that view them."""

  def __init__(self, name: str, size: int, fetch: Callable[[Storage], bytes]):
    self._name, self._fetch = name, fetch
    self._flat, self._copies = {}, MAX_COPIES + 2 * size

  def _elements(self, storage) -> np.ndarray:
    if storage not in self._flat:
      what = f"{self._name}: storage {storage.key}"
      raw, need = self._fetch(storage), storage.size * dtypes.itemsize(storage.dtype)
      if storage.size < 0 or len(raw) < need:
        raise UserError(f"{what} has {len(raw)} bytes; {need} are declared.")
      raw = raw[:need]  # shared storages may be longer than this view of them
      self._flat[storage] = dtypes.array(raw, storage.dtype, (storage.size,), what)
    return self._flat[storage]

  def view(self, tensor: Tensor) -> np.ndarray:
    """The array of a tensor; read-only where no copy was needed."""
    flat, (_, offset, shape, stride) = self._elements(tensor.storage), tensor
    count = math.prod(shape)
    good = len(shape) == len(stride) and min((offset, *shape, *stride)) >= 0
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=False))
    if not good or (count and last >= len(flat)):
      raise UserError(f"{self._name}: a tensor {shape} lies outside its storage.")
    if not count:
      return np.zeros(shape, flat.dtype)
    steps = [s * flat.itemsize for s in stride]
    as_strided = np.lib.stride_tricks.as_strided
    view = as_strided(flat[offset:], shape, steps, writeable=False)
    if not view.flags.c_contiguous:
      self._copies -= view.nbytes
      if self._copies < 0:
        raise UserError(
          f"{self._name}: {shape} tensors of storages of {len(flat)} elements repeat "
          "them until memory is full; this is no weight file."
        )
    return np.ascontiguousarray(view).reshape(shape)


def read_zip(archive: zipfile.ZipFile, name: str) -> tuple[object, Storages]:
  """(object with `Tensor`s inside, their storages) of an open zip file."""
  found = {m.filename: m for m in numpy_file.members(archive, name)}
  main = next(k for k in found if k.endswith("/data.pkl"))
  root = main.removesuffix("data.pkl")
  if found[main].file_size > MAX_PICKLE:
    raise UserError(f"{name}: a pickle of {found[main].file_size} bytes.")
  order = f"{root}byteorder"
  if order in found and archive.read(order).strip() != b"little":
    raise UserError(f"{name} was saved on a big-endian machine; little is read.")

  def fetch(storage):
    member = found.get(f"{root}data/{storage.key}")
    if member is None:
      raise UserError(f"{name}: storage {storage.key} is missing.")
    return archive.read(member)

  with archive.open(main) as f:
    whole = pickles.load(f, name, known=_known(), load=_storage)
  return whole, Storages(name, archive.fp.seek(0, 2), fetch)


def read_legacy(f: BinaryIO, size: int, name: str) -> tuple[object, Storages]:
  """The same of a file from before torch 1.6: pickles, then the storages in order."""
  known = _known()
  head = [pickles.load(f, name, known=known) for _ in range(3)]
  if head[0] != LEGACY_MAGIC or head[1] != 1001:
    raise UserError(f"{name}: torch format {head[:2]} is unknown.")
  seen = {}

  def note(pid):
    storage = _storage(pid)
    return seen.setdefault(storage.key, storage)

  whole = pickles.load(f, name, known=known, load=note)
  raw = {}
  for key in pickles.load(f, name, known=known):
    (count,) = struct.unpack("<q", f.read(8))
    if key not in seen:
      raise UserError(f"{name}: storage {key} belongs to no tensor.")
    need = count * dtypes.itemsize(seen[key].dtype)
    if not 0 <= need <= size - f.tell():
      raise UserError(f"{name}: storage {key} declares {need} bytes; the file ends.")
    raw[key] = f.read(need)

  def fetch(storage):
    if storage.key not in raw:
      raise UserError(f"{name}: storage {storage.key} is missing.")
    return raw[storage.key]

  return whole, Storages(name, size, fetch)
