"""safetensors: a length, a JSON header, and raw little-endian arrays."""

import json
import struct
from typing import BinaryIO

import numpy as np

from vlp_jax.errors import UserError
from vlp_jax.formats import dtypes

MAX_HEADER = 100_000_000  # bytes; the format's own limit
DTYPES = {
  "F64": "<f8",
  "F32": "<f4",
  "F16": "<f2",
  "BF16": dtypes.BFLOAT16,
  "I64": "<i8",
  "I32": "<i4",
  "I16": "<i2",
  "I8": "i1",
  "U64": "<u8",
  "U32": "<u4",
  "U16": "<u2",
  "U8": "u1",
  "BOOL": "?",
}


def read(f: BinaryIO, size: int, name: str) -> dict[str, np.ndarray]:
  """All tensors of an open safetensors file of `size` bytes, by name.

  Raises: UserError if the header is too long, no JSON, or points outside the file.
  """
  (length,) = struct.unpack("<Q", f.read(8))
  if length > min(MAX_HEADER, size - 8):
    raise UserError(f"{name}: a header of {length} bytes in a file of {size}.")
  try:
    header = json.loads(f.read(length))
    entries = [(k, v) for k, v in header.items() if k != "__metadata__"]
    parsed = [
      (k, DTYPES[v["dtype"]], tuple(map(int, v["shape"])), *map(int, v["data_offsets"]))
      for k, v in entries
    ]
  except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
    raise UserError(
      f"{name}: damaged header ({type(error).__name__} {error})."
    ) from None
  arrays = {}
  for key, dtype, shape, begin, end in parsed:
    if not 0 <= begin <= end <= size - 8 - length:
      raise UserError(f"{name}: {key} lies at {begin}:{end}, outside the file.")
    f.seek(8 + length + begin)
    arrays[key] = dtypes.array(f.read(end - begin), dtype, shape, f"{name}: {key}")
  return arrays
