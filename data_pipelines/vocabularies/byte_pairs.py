"""Byte pair encoding over bytes: what `byte_bpe` and `clip_bpe` share.

Each byte of a word is written as a visible character (the space is "Ġ"). The pair of
neighbours with the lowest rank is merged until none has a rank (arXiv 1508.07909; over
bytes, Radford et al. 2019). The engine is the `tokenizers` library, to which no token
is "added": added ones are cut out of the text before anything else, and so a caption
could write "<|endoftext|>". Here it becomes pieces like any other text.
"""

import functools
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from tokenizers import models

from data_pipelines.vocabularies import files
from vlp_jax.errors import UserError

Merge = tuple[str, str]


@functools.cache
def alphabet() -> tuple[str, ...]:
  """The visible character of each of the 256 bytes, as in GPT-2."""
  visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = itertools.count(256)
  return tuple(chr(b if b in visible else next(others)) for b in range(256))


@functools.cache
def _bytes() -> dict[str, int]:
  return {c: b for b, c in enumerate(alphabet())}


def to_bytes(token: str) -> bytes:
  """The bytes that a token of visible characters stands for."""
  return bytes(_bytes()[c] for c in token)


def read_merges(file) -> list[Merge]:
  """Pairs of a merges file, one a line in order of rank, under a "#version" line.

  Raises: UserError if the file cannot be read, or a line is no pair.
  """
  lines = files.read_text(file).removesuffix("\n").split("\n")
  first = 1 if "#version" in lines[0] else 0
  found = []
  for number, line in enumerate(lines[first:], first + 1):
    pair = tuple(line.removesuffix("\r").split(" "))
    if len(pair) != 2 or not all(pair):
      raise UserError(f"{file}, line {number}: {line[:80]!r} is no pair of tokens.")
    found.append(pair)
  return found


def text_of(merges: Iterable[Merge]) -> str:
  """What `read_merges` reads."""
  return "".join(("#version: 0.2\n", *(f"{a} {b}\n" for a, b in merges)))


class Engine:
  """Words of visible characters to ids.

  Args:
    ids: token -> id.
    merges: pairs in order of rank.
    specials: tokens that text must not make.
    suffix: mark of the last piece of a word ("</w>"), or "".
    normalizer, pre_tokenizer: of `tokenizers`; text to words of visible characters.
    what: names the vocabulary in errors.

  Attributes:
    bytes, ends: [256] ids of each byte, inside and at the end of a word.
    merges: (left, right, product) ids in order of rank.
    made: all ids that can come out of text.
    merges_digest: sha256 of the merges.
  """

  def __init__(
    self,
    ids: Mapping[str, int],
    merges: Sequence[Merge],
    *,
    specials: Iterable[str],
    suffix: str,
    normalizer,
    pre_tokenizer,
    what: str,
  ):
    for end in ("", suffix):
      lost = [f"{c}{end}" for c in alphabet() if f"{c}{end}" not in ids]
      if lost:
        raise UserError(
          f"{what} lacks {len(lost)} of the 256 byte tokens, e.g. {lost[0]!r}; is it "
          "another kind of vocabulary?"
        )
    self.merges = []
    for rank, (left, right) in enumerate(merges):
      product = left.removesuffix(suffix) + right
      if not {left, right, product} <= ids.keys():
        raise UserError(
          f"{what}: merge {rank}, {left!r} {right!r}, is of tokens that it lacks; the "
          "two files do not belong together."
        )
      self.merges.append((ids[left], ids[right], ids[product]))
    self._suffix, self._ids = suffix, ids
    self.bytes = [ids[c] for c in alphabet()]
    self.ends = [ids[f"{c}{suffix}"] for c in alphabet()]
    self.made = frozenset((*self.bytes, *self.ends, *(m[2] for m in self.merges)))
    wrong = [t for t in specials if ids[t] in self.made]
    if wrong:
      raise UserError(f"{what}: text can make the special token {wrong[0]!r}.")
    self.merges_digest = hashlib.sha256(text_of(merges).encode()).hexdigest()
    mark = {"end_of_word_suffix": suffix} if suffix else {}
    model = models.BPE(vocab=dict(ids), merges=list(merges), **mark)
    self._tokenizer = tokenizers.Tokenizer(model)
    self._tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
      self._tokenizer.normalizer = normalizer

  def encode(self, text: str) -> tokenizers.Encoding:
    """Has `ids` and `word_ids`."""
    return self._tokenizer.encode(text, add_special_tokens=False)

  def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
    found = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return [e.ids for e in found]

  def whole(self) -> dict[bytes, int]:
    """Bytes of a word -> id, of every word that is one token."""
    found, model, known = {}, self._tokenizer.model, _bytes().keys()
    for token, i in self._ids.items():
      word = token.removesuffix(self._suffix)
      if token.endswith(self._suffix) and word and known >= set(word):
        pieces = model.tokenize(word)
        if len(pieces) == 1 and pieces[0].id == i:
          found[to_bytes(word)] = i
    return found
