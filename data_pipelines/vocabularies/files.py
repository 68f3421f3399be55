"""Vocabulary files: one token a line, checked, and hashed with their case rule."""

import hashlib
import os
from collections.abc import Iterable, Sequence

from etils import epath

from vlp_jax.errors import UserError

MAX_BYTES = 1 << 28  # 256 MiB: forty times the largest published vocabulary


def read_lines(file) -> list[str]:
  """Tokens of a text file, one a line; only the line end is cut off.

  Raises: UserError if the file is missing, too large, not UTF-8, or has a blank or a
    repeated line.
  """
  path = epath.Path(file)
  if not path.is_file():
    raise UserError(f"vocabulary {path} is missing; give the path of a file.")
  size = path.stat().length
  if size > MAX_BYTES:
    raise UserError(f"{path} has {size} bytes; a vocabulary has at most {MAX_BYTES}.")
  try:
    text = path.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise UserError(f"vocabulary {path} is not UTF-8: {error.reason}.") from None
  # Not splitlines(): a token may be a form feed, U+0085 or U+2028.
  lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
  check(lines, path)
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


def write_lines(file, tokens: Iterable[str]) -> None:
  """One token a line; written beside and renamed, so that no half file is ever seen."""
  path = epath.Path(file)
  text = "".join(f"{token}\n" for token in tokens)
  partial = path.parent / f"{path.name}.tmp-{os.getpid()}"
  partial.write_bytes(text.encode())
  partial.replace(path)


def digest(kind: str, cased: bool, tokens: Sequence[str]) -> str:
  """Hex sha256 of kind, case rule and tokens in order."""
  text = "\n".join((f"{kind} cased={cased}", *tokens))
  return hashlib.sha256(text.encode()).hexdigest()
