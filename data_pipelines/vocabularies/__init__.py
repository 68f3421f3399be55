"""Tokenisers without TensorFlow: text to ids, and the numbers that models need of them.

`build(dict(name="wordpiece", file="vocab.txt"))` is `wordpiece.load(file="vocab.txt")`:
names resolve by place. The kinds: `wordpiece` (BERT), `byte_bpe` (GPT-2, RoBERTa,
MERLOT), `clip_bpe`, `sentencepiece` (T5, XLM-R), `words` (word2vec dictionaries of the
HowTo100M models). Every vocabulary has

  kind       name of its file here
  spec       vlp_jax.vocab.Vocab: size, special ids, valid range, digest
  tokens     tuple of V str, the token of each id
  digest     sha256 of kind, tokens and all rules (a checkpoint remembers it)
  encode     str -> list[int], without special tokens around it
  encode_all the same of many texts
  word_ids   str -> list[int], to each id of `encode` the number of its word, from 0
  decode     ids -> str, special tokens left out
  save       writes the file that `load` reads

No special id but the unknown word's ever comes out of text, whatever the text holds.
"""

from collections.abc import Iterable, Mapping

from vlp_jax import resolve
from vlp_jax.errors import UserError


def _place(name: str):
  given = isinstance(name, str) and name[:1] not in ("", "_")
  place = resolve.module(__name__, name) if given else None
  if not hasattr(place, "KIND"):
    raise UserError(
      f"vocab.name is {name!r}; set wordpiece, byte_bpe, clip_bpe, sentencepiece or "
      "words."
    )
  return place


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
    name: "wordpiece", "byte_bpe", "sentencepiece" or "words".
    texts: sentences in any order.
    **keywords: of the `learn` of that file (`size`, `min_count`, `cased`).
  Raises: UserError if nothing can be learned, or that kind is only read.
  """
  place = _place(name)
  if not hasattr(place, "learn"):
    raise UserError(f"vocab {name!r} is only read from its file; learn 'byte_bpe'.")
  return resolve.bind(place.learn, keywords, skip=1, what=f"vocab {name}")(list(texts))
