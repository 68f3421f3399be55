"""Classes that are words: which a sentence may be asked for, and which a text names."""

import pathlib
from collections.abc import Sequence

from vlp_jax.errors import UserError


def load(given: str | Sequence[str], what: str) -> list[tuple[str, ...]]:
  """[(word, its other forms, ...)] of the classes, in order.

  Args:
    given: a line a class, "cut cuts cutting", or the file that holds these lines.
    what: names it in errors.
  Raises: UserError without such a file, or without a class.
  """
  if isinstance(given, str):
    try:
      given = pathlib.Path(given).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
      raise UserError(
        f"{what}={given!r} cannot be read ({type(error).__name__}): give a file with a "
        "line a class, the word and then its other forms, or these lines."
      ) from None
  found = [tuple(line.split()) for line in given if line.strip()]
  if not found:
    raise UserError(f"{what} has no words.")
  return found
