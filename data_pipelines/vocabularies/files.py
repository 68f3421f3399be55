"""Vocabulary files: read with bounds, checked, and hashed with their rules."""

import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence

from etils import epath

from vlp_jax.errors import UserError

MAX_BYTES = 1 << 28  # 256 MiB: forty times the largest published vocabulary
GZIP = b"\x1f\x8b"


def encodable(text: str) -> str:
  """Half a surrogate pair cannot be encoded; it is no text and is dropped."""
  return text.encode("utf-8", "ignore").decode("utf-8")


def read_bytes(file) -> bytes:
  """The bytes of a vocabulary file, unpacked if it is gzip.

  Raises: UserError if the file is missing, damaged, or (unpacked) too large.
  """
  path = epath.Path(file)
  if not path.is_file():
    raise UserError(f"vocabulary {path} is missing; give the path of a file.")
  size = path.stat().length
  if size > MAX_BYTES:
    raise UserError(f"{path} has {size} bytes; a vocabulary has at most {MAX_BYTES}.")
  raw = path.read_bytes()
  if not raw.startswith(GZIP):
    return raw
  unpack = zlib.decompressobj(wbits=31)  # never more than is asked for
  try:
    whole = unpack.decompress(raw, MAX_BYTES + 1)
  except zlib.error as error:
    raise UserError(f"vocabulary {path} is a damaged gzip file: {error}.") from None
  if len(whole) > MAX_BYTES:
    raise UserError(f"{path} unpacks to over {MAX_BYTES} bytes; that is no vocabulary.")
  if not unpack.eof:
    raise UserError(f"vocabulary {path} is a gzip file that was cut off.")
  return whole


def read_text(file) -> str:
  """A vocabulary file as UTF-8 text, unpacked if it is gzip.

  Raises: UserError if it cannot be read as such.
  """
  try:
    return read_bytes(file).decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"vocabulary {file} is not UTF-8: {error.reason}.") from None


def read_lines(file) -> list[str]:
  """Tokens of a text file, one a line; only the line end is cut off.

  Raises: UserError if it cannot be read, or has a blank or a repeated line.
  """
  # Not splitlines(): a token may be a form feed, U+0085 or U+2028.
  text = read_text(file).removesuffix("\n")
  lines = [line.removesuffix("\r") for line in text.split("\n")]
  check(lines, epath.Path(file))
  return lines


def check(tokens: Sequence[str], what) -> None:
  """Raises UserError naming the first blank or repeated token."""
  seen = {}
  for number, token in enumerate(tokens, 1):
    if not token:
      raise UserError(f"{what}, line {number} is blank; one token a line is expected.")
    if token in seen:
      raise UserError(f"{what}: {token!r} stands in lines {seen[token]} and {number}.")
    seen[token] = number


def write_bytes(file, data: bytes) -> None:
  """Written beside and renamed, so that no half file is ever seen."""
  path = epath.Path(file)
  partial = path.parent / f"{path.name}.tmp-{os.getpid()}"
  partial.write_bytes(data)
  partial.replace(path)


def write_lines(file, tokens: Iterable[str]) -> None:
  """One token a line."""
  write_bytes(file, "".join(f"{token}\n" for token in tokens).encode())


def digest(kind: str, cased: bool, tokens: Sequence[str], **rules) -> str:
  """Hex sha256 of kind, case rule, other rules that change ids, and tokens in order."""
  head = [f"{kind} cased={cased}", *(f"{k}={v}" for k, v in sorted(rules.items()))]
  text = "\n".join((" ".join(head), *tokens))
  return hashlib.sha256(text.encode()).hexdigest()
