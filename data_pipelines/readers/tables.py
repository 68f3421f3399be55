"""Annotation files as text: csv, tsv, JSON and JSON lines, decoded by one rule.

A byte order mark decides between UTF-8 and UTF-16; without one a file is UTF-8, unless
another encoding is given: none is guessed. Bytes that do not decode stay as surrogates,
so that one bad caption is dropped (`narrated.text_of`), not the file.
"""

import codecs
import csv
import io
import json
import pathlib
import re
from collections.abc import Iterator, Sequence

from vlp_jax import errors

MARKS = (
  (codecs.BOM_UTF8, "utf-8"),
  (codecs.BOM_UTF16_LE, "utf-16-le"),
  (codecs.BOM_UTF16_BE, "utf-16-be"),
)
MAX_FIELD = 1 << 27  # characters of a csv field
_CHUNK = 1 << 20


def decode(data: bytes, encoding: str = "utf-8") -> str:
  """Text of the bytes of a file."""
  for mark, name in MARKS:
    if data.startswith(mark):
      data, encoding = data[len(mark) :], name
      break
  return data.decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")


def read(path, encoding: str = "utf-8") -> str:
  """Text of a file; UserError with its path if it cannot be read."""
  try:
    return decode(pathlib.Path(path).read_bytes(), encoding)
  except (OSError, LookupError) as error:
    raise errors.UserError(f"{path}: {getattr(error, 'strerror', error)}.") from None


def first(source, *names: str) -> pathlib.Path:
  """The source itself if it is a file, else the first of the names (globs) in it.

  Raises: UserError if none is there.
  """
  source = pathlib.Path(source)
  if source.is_file():
    return source
  for name in names:
    found = sorted(source.glob(name))
    if found:
      return found[0]
  raise errors.UserError(f"{source} has none of {', '.join(names)}.")


def rows(
  path, columns: Sequence[str], *, delimiter: str = ",", encoding: str = "utf-8"
) -> Iterator[tuple[int, dict[str, str]]]:
  """(line, column -> field) of a csv file with a header line.

  Raises: UserError without one of the `columns`.
  """
  text = read(path, encoding)
  lines = fields(text, delimiter=delimiter)
  _, names = next(lines, (0, []))
  names = [n.strip() for n in names]
  lacking = [c for c in columns if c not in names]
  if lacking:
    raise errors.UserError(
      f"{path} has no column {', '.join(lacking)}; its header is {names[:20]}."
    )
  for number, row in lines:
    yield number, dict(zip(names, row, strict=False))


def fields(
  text: str, *, delimiter: str = ",", quoted: bool = True, tight: bool = False
):
  """(line number, fields) of csv text; blank lines are left out.

  Args:
    quoted: whether quotation marks have a meaning.
    tight: whether blanks after a delimiter are skipped.
  """
  before = csv.field_size_limit(MAX_FIELD)
  try:
    reader = csv.reader(
      io.StringIO(text, newline=""),
      delimiter=delimiter,
      quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
      skipinitialspace=tight,
    )
    for row in reader:
      if any(f.strip() for f in row):
        yield reader.line_num, row
  finally:
    csv.field_size_limit(before)


def value(path):
  """The value of a JSON file; UserError if it is none."""
  try:
    return json.loads(read(path))
  except (ValueError, RecursionError) as error:
    raise errors.UserError(f"{path} is not JSON: {error}.") from None


def lines(path) -> Iterator[tuple[int, object]]:
  """(line number, value) of JSON lines; a damaged line gives the exception."""
  for number, line in enumerate(read(path).splitlines(), 1):
    if line.strip():
      try:
        yield number, json.loads(line)
      except (ValueError, RecursionError) as error:
        yield number, error


def items(path) -> Iterator[tuple[str, object]]:
  """(key, value) of a JSON object, one after the other: files may exceed the memory.

  Raises: UserError if it is no object, or cut off.
  """
  wrong = errors.UserError(f"{path} is cut off or no JSON object.")
  decoder, between = json.JSONDecoder(), re.compile(r"[\s,:]*")
  with open(path, encoding="utf-8-sig", errors="surrogateescape") as f:
    text, size = f.read(_CHUNK).lstrip(), _CHUNK
    if not text.startswith("{"):
      raise wrong
    at, pair = 1, []
    while True:
      at = between.match(text, at).end()
      if text.startswith("}", at) and not pair:
        return
      try:
        found, end = decoder.raw_decode(text, at)
      except (ValueError, RecursionError):
        end = len(text)
      if end < len(text):  # else more may follow: "12" may go on with "3"
        at, size, pair = end, _CHUNK, [*pair, found]
        if not isinstance(pair[0], str):
          raise wrong
        if len(pair) == 2:
          yield tuple(pair)
          pair = []
        continue
      more = f.read(size)
      if not more:
        raise wrong
      # Doubled, so that a large value is tried few times.
      text, at, size = text[at:] + more, 0, 2 * size


def split_of(path, default: str = "train") -> str:
  """train, val or test, as the name of a file says it."""
  name = pathlib.Path(path).stem.lower()
  for split, words in (
    ("train", "train"),
    ("test", "test|eval|challenge"),
    ("val", "val|dev"),
  ):
    if re.search(words, name):
      return split
  return default
