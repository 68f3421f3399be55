r"""Byte pair encoding of GPT-2 and RoBERTa, and of what uses their files.

Words are GPT-2's: contractions, letters, digits or other signs with the one space
before them, and what is left of white space. Nothing is normalised and nothing is
unknown. Ids by layout:

  gpt2     as in the file; <|endoftext|> (50256) ends and pads
  roberta  as in the file; <s> 0, <pad> 1, </s> 2, <unk> 3, <mask> 50264. Random
           replacements are drawn from [4, 50261), HERO's range (arXiv 2005.00200)
  merlot   GPT-2's file moved up by 100 (arXiv 2106.02636): padding 0, mask 1, start 2,
           end 3, marks of the next caption 4-6; 50,370 rows, as in its embedding table

`word_ids` counts these words: "don't" is two, "don" and "'t".
"""

import functools
import json
from collections.abc import Iterable, Mapping, Sequence

import tokenizers
from etils import epath
from tokenizers import models, pre_tokenizers, trainers

from data_pipelines.vocabularies import byte_pairs, files
from vlp_jax import vocab
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

KIND = "byte_bpe"
ROBERTA = dict(cls="<s>", pad="<pad>", sep="</s>", unk="<unk>", mask="<mask>")
GPT2 = dict(pad="<|endoftext|>", sep="<|endoftext|>")
MERLOT = dict(pad="<|PADDING|>", mask="<|MASK|>", cls="<|START|>", sep="<|END|>")
LAYOUTS = {"roberta": ROBERTA, "gpt2": GPT2, "merlot": MERLOT}
_MERLOT_OFFSET, _MERLOT_ROWS = 100, 50_370
_MERLOT_NAMES = (
  *("PADDING", "MASK", "START", "END"),
  *("NEXTCAPTION_TIME", "NEXTCAPTION_START", "NEXTCAPTION_END"),
)


def _merlot(tokens: Sequence[str]) -> list[str]:
  """100 special tokens, GPT-2's, and the rows of the table that none uses."""
  names = [*_MERLOT_NAMES, *(f"unused{i}" for i in range(7, _MERLOT_OFFSET))]
  used = _MERLOT_OFFSET + len(tokens)
  names_after = (f"<|row{i}|>" for i in range(used, _MERLOT_ROWS))
  return [*(f"<|{name}|>" for name in names), *tokens, *names_after]


def _words(add_prefix_space: bool):
  return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=True)


class Vocabulary:
  """Byte pair encoding with the given tokens and merges.

  Args:
    tokens: V tokens in order of id, in visible characters ("Ġ" is the space).
    merges: pairs of tokens in order of rank.
    layout: gpt2, roberta or merlot. None: roberta if its five special tokens are
      there, else gpt2.
    add_prefix_space: begin the text with a space if it has none, so that its first
      word gets the ids that it has elsewhere. False as in the published tokenisers.
  Raises: UserError if tokens, merges and layout do not fit each other.
  """

  kind = KIND

  def __init__(
    self,
    tokens: Sequence[str],
    merges: Sequence[byte_pairs.Merge],
    *,
    layout: str | None = None,
    add_prefix_space: bool = False,
  ):
    what = "byte_bpe vocabulary"
    files.check(tokens, what)
    if layout is None:
      layout = "roberta" if set(ROBERTA.values()) <= set(tokens) else "gpt2"
    if layout not in LAYOUTS:
      raise UserError(f"vocab.layout={layout!r}.{nearest(layout, LAYOUTS)}")
    self._saved, self._merges = tuple(tokens), tuple(merges)
    self.layout, self.add_prefix_space = layout, bool(add_prefix_space)
    self.cased = True
    self.tokens = tuple(_merlot(tokens) if layout == "merlot" else tokens)
    ids = {token: i for i, token in enumerate(self.tokens)}
    names = LAYOUTS[layout]
    lost = sorted(set(names.values()) - ids.keys())
    if lost:
      raise UserError(
        f"{what} of {len(ids)} tokens lacks {', '.join(lost)} ({layout})."
      )
    special = {ids[t] for t in names.values()}
    if layout == "merlot":
      special |= set(range(_MERLOT_OFFSET))
      valid = _MERLOT_OFFSET, len(ids)  # the published draw is over all rows
    else:
      usual = [i for t, i in ids.items() if i not in special and t[:10] != "madeupword"]
      valid = min(usual, default=0), max(usual, default=0) + 1
    self._engine = byte_pairs.Engine(
      ids,
      merges,
      specials=(self.tokens[i] for i in special),
      suffix="",
      normalizer=None,
      pre_tokenizer=_words(self.add_prefix_space),
      what=what,
    )
    self.digest = files.digest(
      KIND,
      True,
      self.tokens,
      layout=layout,
      merges=self._engine.merges_digest,
      prefix=self.add_prefix_space,
    )
    self.spec = vocab.Vocab(
      size=len(ids),
      **{f"{k}_id": ids[t] for k, t in names.items()},
      special_ids=tuple(sorted(special)),
      valid_range=valid,
      digest=self.digest,
    )

  @property
  def engine(self) -> byte_pairs.Engine:
    """Byte ids and merges, for the pipeline's tokeniser."""
    return self._engine

  def encode(self, text: str) -> list[int]:
    """Ids of the text, without special tokens around it."""
    return self._engine.encode(files.encodable(text)).ids

  def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
    """`encode` of each text, on all cores."""
    return self._engine.encode_all([files.encodable(text) for text in texts])

  def word_ids(self, text: str) -> list[int]:
    """For each id of `encode`, the number of its word in the text, from 0."""
    return self._engine.encode(files.encodable(text)).word_ids

  def decode(self, ids: Iterable[int]) -> str:
    """The text again, bytes that are no UTF-8 as U+FFFD; no special tokens."""
    kept = (self.tokens[i] for i in map(int, ids) if i in self._engine.made)
    return b"".join(map(byte_pairs.to_bytes, kept)).decode("utf-8", "replace")

  def save(self, file) -> None:
    """Writes token -> id as JSON, and the merges beside it (`merges_file`)."""
    ids = {token: i for i, token in enumerate(self._saved)}
    files.write_bytes(file, json.dumps(ids, ensure_ascii=False, indent=0).encode())
    merges = byte_pairs.text_of(self._merges)
    files.write_bytes(merges_file(file), merges.encode())


def merges_file(file) -> epath.Path:
  """Where the merges are looked for: the published names, else NAME.merges.txt."""
  path = epath.Path(file)
  for own, other in (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt")):
    if path.name.endswith(own):
      return path.parent / f"{path.name.removesuffix(own)}{other}"
  return path.parent / f"{path.stem}.merges.txt"


def read_ids(file) -> list[str]:
  """Tokens in order of id, of a JSON object token -> id.

  Raises: UserError if it is none, or the ids are not 0 to V - 1.
  """
  try:
    found = json.loads(files.read_text(file))
  except (ValueError, RecursionError) as error:
    raise UserError(f"vocabulary {file} is not JSON: {error}.") from None
  if not isinstance(found, Mapping) or not all(type(i) is int for i in found.values()):
    raise UserError(f"vocabulary {file} is no JSON object of token: id.")
  tokens = sorted(found, key=found.get)
  if not tokens or [found[t] for t in tokens] != list(range(len(tokens))):
    raise UserError(f"vocabulary {file}: the ids are not 0 to {len(tokens) - 1}.")
  return tokens


@functools.lru_cache(maxsize=8)
def _load(file, merges, layout, add_prefix_space):
  tokens = read_ids(file)
  pairs = byte_pairs.read_merges(merges or merges_file(file))
  return Vocabulary(tokens, pairs, layout=layout, add_prefix_space=add_prefix_space)


def load(
  file: str,
  merges: str = "",
  layout: str | None = None,
  add_prefix_space: bool = False,
) -> Vocabulary:
  """The vocabulary of `vocab.json` and `merges.txt` (RoBERTa's merges are GPT-2's)."""
  return _load(str(file), str(merges), layout, add_prefix_space)


def learn(
  texts: Sequence[str],
  size: int = 8192,
  min_count: int = 2,
  add_prefix_space: bool = False,
) -> Vocabulary:
  """Learns at most `size` tokens: RoBERTa's five special ones, the bytes, merges.

  Args:
    texts: sentences, in any order.
    size: upper bound of V, at least 261.
    min_count: pairs that occur less often are not merged.
    add_prefix_space: as in `Vocabulary`.
  """
  fixed, letters = [*ROBERTA.values()], sorted(byte_pairs.alphabet())
  if size < len(fixed) + len(letters):
    raise UserError(f"size is {size}; bytes and special tokens alone are 261.")
  texts = [files.encodable(text) for text in texts]
  if not any(texts):
    raise UserError("no text to learn a byte_bpe vocabulary from: all are empty.")
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = _words(add_prefix_space)
  trainer = trainers.BpeTrainer(
    vocab_size=size,
    min_frequency=min_count,
    show_progress=False,
    special_tokens=fixed,
    initial_alphabet=letters,
  )
  tokenizer.train_from_iterator(texts, trainer)
  learned = json.loads(tokenizer.to_str())["model"]
  tokens = sorted(learned["vocab"], key=learned["vocab"].get)
  merges = [tuple(m) for m in learned["merges"]]
  return Vocabulary(tokens, merges, add_prefix_space=add_prefix_space)
