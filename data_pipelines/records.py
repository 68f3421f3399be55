"""`tf.train.SequenceExample` bytes and TFRecord framing without TensorFlow.

The workers of `prepare` write records in a fraction of the ten seconds that importing
TensorFlow takes. `encode` gives the very bytes of
`SequenceExample(...).SerializeToString(deterministic=True)`: map keys sorted, numbers
packed. Formats: tensorflow/core/example/{example,feature}.proto; a TFRecord is

  uint64 length | uint32 masked crc of it | bytes | uint32 masked crc of the bytes
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import numpy as np

from data_pipelines import crc32c

HEADER, FOOTER = 12, 4  # bytes around the payload
MAX_BYTES = 1 << 30  # of one record; a damaged length is not believed

_BYTES, _FLOAT, _INT64 = 1, 2, 3  # field numbers of Feature


def _varint(n: int) -> bytes:
  out = bytearray()
  n &= (1 << 64) - 1  # negative int64: ten bytes, two's complement
  while n > 127:
    out.append(n & 127 | 128)
    n >>= 7
  out.append(n)
  return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
  """A length-delimited field."""
  return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _feature(value) -> bytes:
  """A Feature of one value, or of a list or array of values of one type."""
  if isinstance(value, bytes | str | int | float | np.generic):
    value = [value]
  if isinstance(value, np.ndarray):
    value = value.ravel()
  if len(value) and isinstance(value[0], bytes | str):
    raw = [v.encode() if isinstance(v, str) else v for v in value]
    return _field(_BYTES, b"".join(_field(1, v) for v in raw))
  array = np.asarray(value)
  if not array.size:
    kind = {"f": _FLOAT, "i": _INT64, "u": _INT64}.get(array.dtype.kind, _BYTES)
    return _field(kind, b"")
  if array.dtype.kind == "f":
    return _field(_FLOAT, _field(1, array.astype("<f4").tobytes()))
  if array.dtype.kind in "iub":
    packed = b"".join(_varint(int(v)) for v in array)
    return _field(_INT64, _field(1, packed))
  raise TypeError(
    f"a feature of dtype {array.dtype}; bytes, ints or floats are stored."
  )


def _entry(key: str, message: bytes) -> bytes:
  return _field(1, _field(1, key.encode()) + _field(2, message))


def encode(context: Mapping, lists: Mapping[str, Sequence] | None = None) -> bytes:
  """Serialised SequenceExample.

  Args:
    context: name -> bytes, str, int, float, or a list or array of one of these.
    lists: name -> one value (of the same kinds) for each step. An empty list is kept
      as an empty feature list.
  Raises: TypeError for values of another type.
  """
  one = b"".join(_entry(k, _feature(context[k])) for k in _sorted(context))
  many = b"".join(
    _entry(k, b"".join(_field(1, _feature(v)) for v in lists[k]))
    for k in _sorted(lists or {})
  )
  parts = [_field(1, one)] if context else []
  return b"".join([*parts, _field(2, many)] if lists else parts)


def _sorted(mapping):
  return sorted(mapping, key=lambda k: k.encode())


def _read_varint(data, at):
  value, shift = 0, 0
  while True:
    byte = data[at]
    value |= (byte & 127) << shift
    at, shift = at + 1, shift + 7
    if byte < 128:
      return value, at


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
  """(number, payload) of the length-delimited fields, the only ones in our records."""
  at = 0
  while at < len(data):
    tag, at = _read_varint(data, at)
    if tag & 7 != 2:
      raise ValueError(f"wire type {tag & 7} in a SequenceExample; expected 2.")
    size, at = _read_varint(data, at)
    if at + size > len(data):
      raise ValueError("a field runs past the end of the record.")
    yield tag >> 3, data[at : at + size]
    at += size


def _values(feature: memoryview) -> np.ndarray | list[bytes]:
  for kind, payload in _fields(feature):
    parts = [p for _, p in _fields(payload)]
    if kind == _BYTES:
      return [bytes(p) for p in parts]
    packed = b"".join(parts)
    if kind == _FLOAT:
      return np.frombuffer(packed, "<f4")
    values, at = [], 0
    while at < len(packed):
      value, at = _read_varint(packed, at)
      values.append(value - (value >> 63 << 64))
    return np.array(values, np.int64)
  return []


def _map(data: memoryview) -> Iterator[tuple[str, memoryview]]:
  for _, entry in _fields(data):
    pair = dict(_fields(entry))
    yield bytes(pair[1]).decode(), pair.get(2, memoryview(b""))


def decode(data: bytes) -> tuple[dict, dict]:
  """(context, lists) of a serialised SequenceExample with packed numbers.

  Values are lists of bytes or [n] float32 / int64 arrays; `lists` has one for each
  step. The inverse of `encode` up to dtypes.
  Raises: ValueError or IndexError on bytes of another format.
  """
  context, lists = {}, {}
  for number, part in _fields(memoryview(data)):
    if number == 1:
      context |= {k: _values(v) for k, v in _map(part)}
    elif number == 2:
      lists |= {k: [_values(f) for _, f in _fields(v)] for k, v in _map(part)}
  return context, lists


def frame(payload: bytes) -> bytes:
  """The payload as it lies in a TFRecord file."""
  length = struct.pack("<Q", len(payload))
  head = length + struct.pack("<I", crc32c.masked(length))
  return head + payload + struct.pack("<I", crc32c.masked(payload))


def read(file: BinaryIO, *, check: bool = True) -> Iterator[tuple[int, bytes]]:
  """(byte offset of the frame, payload) of each record of an open file.

  Raises: ValueError naming the offset of a truncated or damaged record.
  """
  offset = file.tell()
  while head := file.read(HEADER):
    if len(head) < HEADER:
      raise ValueError(f"truncated record at {offset}.")
    length, crc = struct.unpack("<QI", head)
    if crc32c.masked(head[:8]) != crc or length > MAX_BYTES:
      raise ValueError(f"damaged length at {offset}.")
    body = file.read(length + FOOTER)
    if len(body) < length + FOOTER:
      raise ValueError(f"truncated record at {offset}.")
    payload = body[:length]
    if check and crc32c.masked(payload) != struct.unpack("<I", body[length:])[0]:
      raise ValueError(f"damaged record at {offset}.")
    yield offset, payload
    offset += HEADER + length + FOOTER
