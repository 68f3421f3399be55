"""Annotation files as text: csv, tsv, JSON and JSON lines, decoded by one rule.

A byte order mark decides between UTF-8 and UTF-16; without one a file is UTF-8, unless
another encoding is given: none is guessed. Bytes that do not decode stay as surrogates,
so that one bad caption is dropped (`narrated.text_of`), not the file. A damaged line
gives the exception that says why, for the quarantine.
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
# What a value of another form raises where a field of it is taken.
WRONG = (AttributeError, LookupError, OverflowError, TypeError, ValueError)
MAX_FIELD = 1 << 27  # characters of a csv field
MAX_LINES = 100  # of one csv row; more are what an open quotation mark swallows
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
  path, columns: Sequence[str], *, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str] | ValueError]]:
  """`table` of a csv file.

  Raises: UserError without one of the `columns`, or if it is no csv file.
  """
  try:
    yield from table(read(path), columns, delimiter=delimiter)
  except ValueError as error:
    raise errors.UserError(f"{path} {error}.") from None


def sound(path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
  """The `rows` of a list of which none may be lost; UserError with a bad one's line."""
  for number, row in rows(path, columns):
    if isinstance(row, Exception):
      raise errors.UserError(f"{path}, line {number}: {row}.")
    yield row


def table(
  text: str, columns: Sequence[str], *, delimiter: str = ","
) -> Iterator[tuple[int, dict[str, str] | ValueError]]:
  """(line, column -> field) of csv text with a header line.

  Fields that a line lacks are "". A ValueError stands for a line that is blank in one
  of the `columns`, or has more fields than the header: a comma that is not quoted would
  cut a text short.

  Raises: ValueError without one of the `columns`, or for text that is no csv.
  """
  lines = _split(text, delimiter=delimiter)
  _, names = next(lines, (0, []))
  names = [n.strip() for n in names]
  lacking = [c for c in columns if c not in names]
  if lacking:
    raise ValueError(f"has no column {', '.join(lacking)}; its header is {names[:20]}")
  for number, row in lines:
    named = dict(zip(names, row + [""] * (len(names) - len(row)), strict=False))
    blank = [c for c in columns if not named[c].strip()]
    if any(f.strip() for f in row[len(names) :]):
      yield number, ValueError(f"{len(row)} fields, {len(names)} in the header")
    elif blank:
      yield number, ValueError(f"an empty field: {', '.join(blank)}")
    else:
      yield number, named


def fields(path, **keywords) -> Iterator[tuple[int, list[str]]]:
  """(line number, fields) of a csv file without a header; blank lines are left out.

  Args:
    **keywords: of `_split`.
  Raises: UserError if it is no csv file.
  """
  try:
    yield from _split(read(path), **keywords)
  except ValueError as error:
    raise errors.UserError(f"{path} {error}.") from None


def _split(
  text: str, *, delimiter: str = ",", quoted: bool = True, tight: bool = False
) -> Iterator[tuple[int, list[str]]]:
  """(line number, fields) of csv text; blank lines are left out.

  Args:
    quoted: whether quotation marks have a meaning.
    tight: whether blanks after a delimiter are skipped.
  Raises: ValueError for what is no csv.
  """
  before = csv.field_size_limit(MAX_FIELD)
  try:
    reader = csv.reader(
      io.StringIO(text, newline=""),
      delimiter=delimiter,
      quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
      skipinitialspace=tight,
    )
    last = 0
    for row in reader:
      if reader.line_num > last + MAX_LINES:
        raise ValueError(
          f"has a quotation mark in line {last + 1} that is not closed for over "
          f"{MAX_LINES} lines"
        )
      last = reader.line_num
      if any(f.strip() for f in row):
        yield last, row
  except csv.Error as error:
    raise ValueError(f"is no csv file: {error}") from None
  finally:
    csv.field_size_limit(before)


def value(path):
  """The value of a JSON file; UserError if it is none."""
  try:
    return json.loads(read(path))
  except (ValueError, RecursionError) as error:
    raise errors.UserError(f"{path} is not JSON: {error}.") from None


def lines(path) -> Iterator[tuple[int, object]]:
  """(line number, value) of JSON lines; a ValueError stands for a damaged line."""
  # Raw U+2028 and U+0085, at which `splitlines` parts too, may stand in JSON strings.
  for number, line in enumerate(read(path).split("\n"), 1):
    if line.strip():
      try:
        yield number, json.loads(line)
      except ValueError as error:
        yield number, error
      except RecursionError:
        yield number, ValueError("JSON nested too deep")


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
