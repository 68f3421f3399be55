"""Element types of foreign files, and the bounds that keep a header honest."""

import math
from collections.abc import Sequence

import numpy as np

from vlp_jax.errors import UserError

BFLOAT16 = "bfloat16"  # numpy has none: read as float32, exactly


def itemsize(dtype: str) -> int:
  """Bytes of one element in the file."""
  return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def widen(raw: np.ndarray) -> np.ndarray:
  """uint16 patterns of bfloat16 numbers -> float32, exactly."""
  return (raw.astype(np.uint32) << 16).view(np.float32)


def array(raw: bytes, dtype: str, shape: Sequence[int], name: str) -> np.ndarray:
  """The array that the bytes hold, bfloat16 as float32.

  Raises: UserError unless there are exactly as many bytes as the shape asks for.
  """
  size = math.prod(shape) * itemsize(dtype)
  if any(n < 0 for n in shape) or size != len(raw):
    raise UserError(f"{name}: {dtype}{list(shape)} needs {size} bytes, not {len(raw)}.")
  if dtype == BFLOAT16:
    return widen(np.frombuffer(raw, "<u2")).reshape(shape)
  return np.frombuffer(raw, dtype).reshape(shape)
