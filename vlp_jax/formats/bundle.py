"""TensorFlow checkpoints ("tensor bundles"): `<prefix>.index` and its data files.

The index is an uncompressed sorted string table (LevelDB's format) from variable names
to BundleEntryProto; the data files hold raw little-endian arrays. Strings (the object
graph of TF 2) are left out.
"""

import pathlib
import struct
from collections.abc import Iterator

import numpy as np

from vlp_jax.errors import UserError
from vlp_jax.formats import dtypes

TABLE_MAGIC = 0xDB4775248B80FB57
MAX_INDEX = 1 << 28
STRING = 7
DTYPES = {
  1: "<f4",
  2: "<f8",
  3: "<i4",
  4: "u1",
  5: "<i2",
  6: "i1",
  9: "<i8",
  10: "?",
  14: dtypes.BFLOAT16,
  17: "<u2",
  19: "<f2",
  22: "<u4",
  23: "<u8",
}


def _varint(data, at) -> tuple[int, int]:
  value = shift = 0
  while True:
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at


def _block(data: bytes, handle: bytes) -> Iterator[tuple[bytes, bytes]]:
  """(key, value) pairs of the block at a handle (offset, size)."""
  offset, at = _varint(handle, 0)
  size, _ = _varint(handle, at)
  block, kind = data[offset : offset + size], data[offset + size]
  if kind:
    raise ValueError(f"compression {kind}")
  (restarts,) = struct.unpack("<I", block[-4:])
  end, at, key = len(block) - 4 * (restarts + 1), 0, b""
  while at < end:
    shared, at = _varint(block, at)
    fresh, at = _varint(block, at)
    length, at = _varint(block, at)
    key = key[:shared] + block[at : at + fresh]
    at += fresh
    yield key, block[at : at + length]
    at += length


def _message(data: bytes) -> dict[int, list]:
  """Fields of a protocol buffer: numbers and bytes by field number."""
  fields, at = {}, 0
  while at < len(data):
    tag, at = _varint(data, at)
    if tag & 7 == 0:
      value, at = _varint(data, at)
    elif tag & 7 == 2:
      size, at = _varint(data, at)
      value, at = data[at : at + size], at + size
    elif tag & 7 == 5:
      value, at = data[at : at + 4], at + 4
    else:
      raise ValueError(f"wire type {tag & 7}")
    fields.setdefault(tag >> 3, []).append(value)
  return fields


def _entries(data: bytes) -> Iterator[tuple[str, dict]]:
  *_, magic = struct.unpack("<40xQ", data[-48:])
  if magic != TABLE_MAGIC:
    raise ValueError("no table")
  footer = data[-48:]
  _, at = _varint(footer, 0)  # the handle of the meta index: offset, size
  _, at = _varint(footer, at)
  for _, handle in _block(data, footer[at:]):
    for key, value in _block(data, handle):
      yield key.decode(), _message(value)


def _files(path) -> tuple[pathlib.Path, str]:
  """The index file and the prefix of the data files."""
  path = pathlib.Path(path)
  if path.is_dir():
    found = sorted(path.glob("*.index"))
    if len(found) != 1:
      names = [p.name for p in found]
      raise UserError(f"{path} has {names or 'no'} .index files; name one checkpoint.")
    path = found[0]
  if path.suffix != ".index":
    path = path.with_name(f"{path.name}.index")
  return path, path.name.removesuffix(".index")


def read(path) -> dict[str, np.ndarray]:
  """All numeric variables of a checkpoint prefix, its `.index`, or its directory.

  Raises: UserError if a file is missing or damaged, or a variable is partitioned.
  """
  at, prefix = _files(path)
  if not at.is_file():
    raise UserError(f"{at} is missing.")
  if at.stat().st_size > MAX_INDEX:
    raise UserError(
      f"{at} has {at.stat().st_size} bytes; at most {MAX_INDEX} are read."
    )
  try:
    entries = dict(_entries(at.read_bytes()))
    shards = entries.pop("")[1][0]
    parsed = [_parse(name, entry) for name, entry in entries.items()]
  except (IndexError, ValueError, KeyError, struct.error) as error:
    raise UserError(f"{at} is no checkpoint index ({error}).") from None
  arrays = {}
  for name, dtype, shape, shard, offset, size in (p for p in parsed if p):
    data = at.with_name(f"{prefix}.data-{shard:05d}-of-{shards:05d}")
    if not data.is_file() or offset + size > data.stat().st_size:
      raise UserError(f"{data} is missing or cut off; {name} lies at {offset}.")
    with data.open("rb") as f:
      f.seek(offset)
      arrays[name] = dtypes.array(f.read(size), dtype, shape, f"{data}: {name}")
  return arrays


def _parse(name, entry):
  """(name, dtype, shape, shard, offset, size), None for a string."""
  kind = entry[1][0]
  if kind == STRING:
    return None
  if 7 in entry or kind not in DTYPES:
    raise ValueError(f"{name} is partitioned or of dtype {kind}")
  dims = _message(entry[2][0]).get(2, []) if 2 in entry else []
  shape = tuple(_message(d).get(1, [0])[0] for d in dims)
  shard, offset, size = (entry.get(k, [0])[0] for k in (3, 4, 5))
  return name, DTYPES[kind], shape, shard, offset, size
