"""One text about one or two images, whatever annotation file it comes from."""

import pathlib
from collections.abc import Iterable
from typing import NamedTuple

from data_pipelines.readers import narrated, tables
from vlp_jax import errors, resolve

WRONG = tables.WRONG


class Example(NamedTuple):
  """A caption, question, statement or expression; JSON-able.

  Attributes:
    key: unique in its file. images: names, the left one first.
    split: "train", "val", "test"; "" where the file does not say.
    label: of the task; None if unknown, as in test sets.
    answers: (answer, score in 0..1), normalised.
    more: what else the file has: box, choices, tokens.
  """

  key: str
  images: tuple[str, ...]
  text: str
  split: str = ""
  label: int | None = None
  answers: tuple[tuple[str, float], ...] = ()
  more: dict = {}  # noqa: RUF012 - never changed in place


def clean(text) -> str:
  """The text by the rule for captions, blanks and line ends as single blanks."""
  return " ".join(narrated.text_of(text).split())


def mistake(path, place, error) -> errors.UserError:
  """A row that is not of the format: file, place, cause."""
  reason = f"{type(error).__name__} {error}"
  return errors.UserError(f"{path}, {place}: not of this format ({reason}).")


def listed(value, path, place) -> list:
  """The value, if it is a list; else the `mistake` is raised."""
  if not isinstance(value, list):
    raise mistake(path, place, TypeError(f"a {type(value).__name__}, no list"))
  return value


def find(module, name: str, formats: Iterable[str]):
  """The reader `name` of a module; UserError with the nearest of its formats."""
  formats = tuple(formats)
  if name not in formats:
    raise errors.UserError(f"no format {name!r}.{resolve.nearest(name, formats)}")
  return getattr(module, name)


def parted(given: str, source) -> list[tuple[str, object]]:
  """[(split, path)] of "train=a.json,b.json": "" where no split is said.

  Raises: UserError if there is no such path below the source, or as given.
  """
  found = []
  for part in filter(None, (p.strip() for p in given.split(","))):
    split, at, path = part.rpartition("=")
    own = pathlib.Path(path)
    inside = pathlib.Path(source) / path
    own = inside if inside.exists() else own
    if not own.exists():
      raise errors.UserError(f"{inside} is missing.")
    found.append((split if at else "", own))
  return found


def split_of(path, split: str, example: Example) -> str:
  """The split said on the command line, by the row, or by the name of the file."""
  return split or example.split or tables.split_of(path)
