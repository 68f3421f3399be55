"""Word vectors of published files, as a table for the words of a vocabulary.

  word2vec .bin   "V D" line, then each word, a space and D little-endian float32
  word2vec .txt, fastText .vec   "V D" line, then "word v1 ... vD" lines
  GloVe .txt      the same lines without the first

Any of them may be gzip. A file is read once, front to back, and only vectors of wanted
words are kept: three million words of width 300 take no more memory than the table. No
header is believed beyond the size of the file.
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import numpy as np
from etils import epath

from vlp_jax.errors import UserError

MAX_WIDTH = 4096
MAX_LINE, MAX_WORD = 1 << 18, 1 << 12  # bytes
RATIO = 1032  # the most that gzip packs
_FASTTEXT = (793_712_314).to_bytes(4, "little")
_CHUNK = 1 << 20


def read(path, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
  """Vectors of `words`; of a word that the file has twice, the first.

  Args:
    path: a local path or gs:// address; names in .bin or .bin.gz are binary.
    words: distinct words, spelt as in the file.
  Returns: ([W, D] float32, zeros where the file lacks the word; [W] bool, whether it is
    there).
  Raises: UserError if the file is missing, cut off, of another form, or has no word.
  """
  path = epath.Path(path)
  if not path.is_file():
    raise UserError(f"word vectors {path} are missing; give the path of a file.")
  rows = {word.encode("utf-8", "ignore"): i for i, word in enumerate(words)}
  size = path.stat().length
  with path.open("rb") as f:
    head = f.read(4)
    f.seek(0)
    if head == _FASTTEXT:
      raise UserError(f"{path} is a fastText model; convert the .vec file beside it.")
    packed = head[:2] == b"\x1f\x8b"
    stream = gzip.GzipFile(fileobj=f) if packed else f
    size = size * RATIO if packed else size
    binary = ".bin" in path.suffixes[-2:]
    try:
      found = (_binary if binary else _lines)(stream, size, str(path), rows)
      table, seen = _fill(found, len(rows), str(path))
    except (EOFError, OSError, zlib.error) as error:
      raise UserError(f"{path} is damaged or cut off: {error}.") from None
  if not seen.any():
    raise UserError(f"{path} has a vector for none of {len(rows)} words.")
  return table, seen


def _fill(found, count, name):
  table, seen = None, np.zeros(count, bool)
  for row, vector in found:
    if table is None:
      table = np.zeros((count, len(vector)), np.float32)
    if not np.isfinite(vector).all():
      raise UserError(f"{name}: a vector is not finite (word {row} of those wanted).")
    if not seen[row]:
      table[row], seen[row] = vector, True
  return table, seen


def _header(line: bytes, name: str, size: int, least: int) -> tuple[int, int]:
  """(V, D) of "V D"; `least` bytes hold one number."""
  count, width = (int(x) for x in line.split())
  if not 0 < width <= MAX_WIDTH or not 0 < count * (1 + width * least) <= size:
    raise UserError(
      f"{name} declares {count} vectors of width {width} in {size} bytes at most; "
      f"widths up to {MAX_WIDTH} are read."
    )
  return count, width


_COUNTS = re.compile(rb"\d{1,18} +\d{1,18}\s*")


def _lines(stream: BinaryIO, size: int, name: str, rows) -> Iterator:
  count = width = None
  number = done = 0
  while line := stream.readline(MAX_LINE + 1):
    number += 1
    if len(line) > MAX_LINE:
      raise UserError(f"{name}, line {number} is longer than {MAX_LINE} bytes.")
    if number == 1 and _COUNTS.fullmatch(line):
      count, width = _header(line, name, size, 2)
      continue
    line = line.rstrip(b" \r\n")
    width = width or line.count(b" ")
    if not 0 < width <= MAX_WIDTH:
      raise UserError(f"{name}, line {number} has {width} values; expected vectors.")
    done += 1
    word, *values = line.rsplit(b" ", width)  # some words of GloVe hold a space
    row = rows.get(word)
    if len(values) != width:
      raise UserError(
        f"{name}, line {number}: {len(values)} values for "
        f"{word[:80].decode(errors='replace')!r}; expected {width} numbers."
      )
    if row is not None:
      try:
        vector = np.array(values, "S").astype(np.float32)
      except ValueError:
        raise UserError(
          f"{name}, line {number}: {width} values for {word.decode()!r}; "
          f"expected {width} numbers."
        ) from None
      yield row, vector
  if count is not None and done != count:
    raise UserError(f"{name} has {done} vectors; its first line says {count}.")


def _binary(stream: BinaryIO, size: int, name: str, rows) -> Iterator:
  line = stream.readline(64)
  if not _COUNTS.fullmatch(line):
    raise UserError(f"{name} does not begin with the line 'V D' of a word2vec .bin.")
  count, width = _header(line, name, size, 4)
  length, buffer, at = 4 * width, b"", 0
  for k in range(count):
    space = buffer.find(b" ", at)
    if space < 0 or space + 1 + length > len(buffer):
      more = stream.read(max(_CHUNK, length + MAX_WORD))
      buffer, at = buffer[at:] + more, 0
      space = buffer.find(b" ", 0, MAX_WORD)
      if space < 0 or space + 1 + length > len(buffer):
        raise UserError(f"{name} is cut off or damaged: {k} of {count} vectors.")
    if space - at > MAX_WORD:
      raise UserError(f"{name}: word {k} is longer than {MAX_WORD} bytes.")
    row = rows.get(buffer[at:space].lstrip(b"\n"))
    at = space + 1 + length
    if row is not None:
      yield row, np.frombuffer(buffer, "<f4", width, space + 1)
