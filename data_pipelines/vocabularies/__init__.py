"""Tokenisers without TensorFlow: text to ids, and the numbers that models need of them.

`build(dict(name="wordpiece", file="vocab.txt"))` is `wordpiece.load(file="vocab.txt")`:
names resolve by place. Every vocabulary has

  spec       vlp_jax.vocab.Vocab: size, special ids, valid range, digest
  tokens     tuple of V str, the token of each id
  digest     sha256 of kind, case rule and tokens (a checkpoint remembers it)
  encode     str -> list[int], without special tokens around it
  decode     ids -> str, special tokens left out
  save       writes the file that `load` reads

No special id but the unknown word's ever comes out of text, whatever the text holds.
"""

from collections.abc import Iterable, Mapping

from vlp_jax import resolve
from vlp_jax.errors import UserError


def _place(name: str):
  if not isinstance(name, str) or name.startswith("_") or name == "files":
    raise UserError(f"vocab.name is {name!r}; set 'wordpiece' or 'words'.")
  return resolve.module(__name__, name)


def build(config: Mapping) -> object:
  """The vocabulary of `config = dict(name=..., file=..., **keywords of its load)`.

  Raises: UserError on an unknown name or keyword, or a file that is no vocabulary.
  """
  given = dict(config)
  name = given.pop("name", None)
  place = _place(name)
  return resolve.bind(place.load, given, what=f"vocab {name}")()


def learn(name: str, texts: Iterable[str], **keywords) -> object:
  """A vocabulary learned from texts; equal for equal multisets of texts.

  Args:
    name: "wordpiece" or "words".
    texts: sentences in any order.
    **keywords: of the `learn` of that file (`size`, `min_count`, `cased`).
  """
  place = _place(name)
  return resolve.bind(place.learn, keywords, skip=1, what=f"vocab {name}")(list(texts))
