"""Lines of large TSV files by byte offset, and arrays in base64.

Feature files have millions of bytes a line: they are scanned once for names and
offsets, or not at all where a `.lineidx` file (an offset a line) lies beside them.
"""

import binascii
import math
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from vlp_jax import errors

MAX_LINE = 1 << 28  # bytes; a file without line ends is no TSV


def files(path, pattern: str = "*.tsv*") -> list[pathlib.Path]:
  """The file, or the files of a directory whose names match, in order.

  Raises: UserError if there is none.
  """
  path = pathlib.Path(path)
  ignored = (".lineidx", ".json", ".zip", ".gz")
  if path.is_dir():
    found = [p for p in sorted(path.glob(pattern)) if p.suffix not in ignored]
    if found:
      return found
  elif path.is_file():
    return [path]
  raise errors.UserError(f"{path}: no {pattern} file is there.")


def _indexed(path, at) -> Iterator[tuple[int, bytes]]:
  """(offset, first bytes) of each line, hopping by the offsets in `at`."""
  try:
    offsets = [int(n) for n in at.read_text().split()]
  except ValueError:
    raise errors.UserError(f"{at} is no list of offsets; remove it.") from None
  size = path.stat().st_size
  with path.open("rb") as f:
    for offset in offsets:
      f.seek(max(0, offset - 1))
      before = f.read(1) if offset else b"\n"
      if before != b"\n" or not 0 <= offset < size:
        raise errors.UserError(
          f"{at}: no line of {path} begins at {offset}; remove it."
        )
      yield offset, f.read(1024)


def _scanned(path) -> Iterator[tuple[int, bytes]]:
  offset = 0
  with path.open("rb") as f:
    while line := f.readline(MAX_LINE):
      if len(line) == MAX_LINE:
        raise errors.UserError(f"{path}: a line of over {MAX_LINE} bytes at {offset}.")
      if line.strip():
        yield offset, line[:1024]
      offset += len(line)


def places(paths: Sequence[pathlib.Path]) -> dict[str, list]:
  """{first field of a line: [number of its file, byte offset]}; the first counts."""
  found = {}
  for number, path in enumerate(paths):
    at = path.with_suffix(".lineidx")
    at = at if at.is_file() else path.with_name(f"{path.name}.lineidx")
    for offset, head in _indexed(path, at) if at.is_file() else _scanned(path):
      name = head.split(b"\t", 1)[0].strip().decode("utf-8", "replace")
      found.setdefault(name, [number, offset])
  if not found:
    raise errors.UserError(f"{paths[0]} has no rows.")
  return found


def fields(name: str, path, offset: int, columns: Sequence[str]) -> dict[str, bytes]:
  """{column: bytes} of the line at `offset`.

  Raises: ValueError that names the image if the line has another number of fields.
  """
  with open(path, "rb") as f:
    f.seek(offset)
    line = f.readline(MAX_LINE)
  values = line.rstrip(b"\r\n").split(b"\t")
  if len(values) != len(columns):
    raise ValueError(
      f"image {name}: {len(values)} fields in its line, expected {', '.join(columns)}"
    )
  return dict(zip(columns, values, strict=True))


def integer(name: str, what: str, value) -> int:
  """A whole number of a text field."""
  try:
    return int(float(value))
  except (ValueError, TypeError, OverflowError):
    raise ValueError(f"image {name}: {what} {value!r} is no number") from None


def array(name: str, what: str, data, dtype: str, shape: Sequence[int]) -> np.ndarray:
  """The array of base64 text or raw bytes in text; -1 in `shape` is free.

  Raises: ValueError that names the image if it is no base64 or of another size.
  """
  try:
    data = data.encode("ascii") if isinstance(data, str) else bytes(data)
    raw = binascii.a2b_base64(data)
  except (binascii.Error, UnicodeEncodeError) as error:
    raise ValueError(f"image {name}: {what} is no base64 ({error})") from None
  return unpack(name, what, raw, dtype, shape)


def unpack(name: str, what: str, raw: bytes, dtype: str, shape: Sequence[int]):
  """The array of raw bytes; -1 in the last place of `shape` is free."""
  if shape[0] < 1:
    raise ValueError(f"image {name}: no regions ({what} of shape {tuple(shape)})")
  item = math.prod(n for n in shape if n >= 0) * np.dtype(dtype).itemsize
  free = shape[-1] == -1
  if len(raw) % item if free else len(raw) != item:
    raise ValueError(
      f"image {name}: {what} holds {len(raw)} bytes; {dtype} of shape {tuple(shape)} "
      f"needs {'multiples of ' if free else ''}{item}"
    )
  return np.frombuffer(raw, dtype).reshape(shape)
