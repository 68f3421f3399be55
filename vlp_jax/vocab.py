"""The numbers of a vocabulary that models and objectives need, and words as classes.

Tokenisers live in `data_pipelines/vocabularies`; each hands out one of these.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

from vlp_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Vocab:
  """Sizes and special ids. Hashable, so that it can be closed over by a jitted step.

  Attributes:
    size: number of ids, V.
    pad_id, unk_id, cls_id, sep_id, mask_id: special ids, -1 where there is none.
    special_ids: every id that is never masked and never comes out of text.
    valid_range: [low, high) of the ids that a random replacement may take.
    digest: sha256 of the tokens, compared when a checkpoint is restored.
  """

  size: int
  pad_id: int = 0
  unk_id: int = -1
  cls_id: int = -1
  sep_id: int = -1
  mask_id: int = -1
  special_ids: tuple[int, ...] = (0,)
  valid_range: tuple[int, int] = (1, 0)
  digest: str = ""

  def __post_init__(self):
    object.__setattr__(self, "special_ids", tuple(int(i) for i in self.special_ids))
    low, high = (int(i) for i in self.valid_range)
    high = high if high > low else self.size
    object.__setattr__(self, "valid_range", (low, high))
    ids = (*self.special_ids, self.mask_id, self.cls_id, self.sep_id, low)
    if self.size < 1 or max(ids) >= self.size or high > self.size:
      raise ValueError(f"vocabulary of {self.size} ids has a special id beyond: {self}")


def classes(given: str | Sequence[str], what: str) -> list[tuple[str, ...]]:
  """[(word, its other forms, ...)] of classes that are words, in order.

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
