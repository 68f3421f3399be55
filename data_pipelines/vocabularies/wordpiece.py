"""BERT's WordPiece: greedy longest match within words (arXiv 1810.04805, 1609.08144).

Normaliser and word splitting are BERT's (control characters dropped, punctuation and
CJK characters apart, lower case without accents if uncased). Brackets are punctuation,
so "[MASK]" in a caption becomes three ordinary tokens, and so does the name of every
other bracketed token. A word without a match, or of over 100 characters, is [UNK].
"""

import collections
import functools
from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from data_pipelines.vocabularies import files
from vlp_jax import vocab
from vlp_jax.errors import UserError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KIND = "wordpiece"
MAX_CHARS = 100


def _bracketed(token: str) -> bool:
  return len(token) > 2 and token[0] == "[" and token[-1] == "]"


def _pipeline(model, cased: bool, strip_accents: bool, chinese: bool):
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.normalizer = normalizers.BertNormalizer(
    clean_text=True,
    handle_chinese_chars=chinese,
    strip_accents=strip_accents,
    lowercase=not cased,
  )
  tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  return tokenizer


class Vocabulary:
  """WordPiece over the given tokens.

  Args:
    tokens: V tokens in order of id; "##" marks the inside of a word.
    cased: keep capitals and accents. None: exactly if some token has a capital.
    strip_accents: None: exactly if capitals go, as BERT does. False with cased=False
      is for uncased vocabularies of languages whose accents matter.
    chinese: every Chinese character is a word.
    max_chars: longer words are [UNK].
  Raises: UserError without one of [PAD] [UNK] [CLS] [SEP] [MASK], or with duplicates.
  """

  kind = KIND

  def __init__(
    self,
    tokens: Sequence[str],
    *,
    cased: bool | None = None,
    strip_accents: bool | None = None,
    chinese: bool = True,
    max_chars: int = MAX_CHARS,
  ):
    if max_chars < 1:
      raise UserError(f"vocab.max_chars={max_chars}; it must be positive.")
    self.tokens = tuple(tokens)
    files.check(self.tokens, "wordpiece vocabulary")
    ids = {token: i for i, token in enumerate(self.tokens)}
    missing = [t for t in SPECIALS if t not in ids]
    if missing:
      raise UserError(
        f"wordpiece vocabulary of {len(ids)} tokens lacks {', '.join(missing)}; "
        f"a BERT vocab.txt has {' '.join(SPECIALS)}. Is it a file for name='words'?"
      )
    words = [t for t in self.tokens if not _bracketed(t)]
    if not words:
      raise UserError("wordpiece vocabulary has only special tokens.")
    self.cased = any(t != t.lower() for t in words) if cased is None else bool(cased)
    given = strip_accents is not None
    self.strip_accents = strip_accents if given else not self.cased
    self.chinese, self.max_chars = chinese, max_chars
    rules = {"strip_accents": self.strip_accents, "chinese": chinese, "max": max_chars}
    usual = {"strip_accents": not self.cased, "chinese": True, "max": MAX_CHARS}
    changed = {k: v for k, v in rules.items() if v != usual[k]}
    self.digest = files.digest(KIND, self.cased, self.tokens, **changed)
    model = models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=max_chars)
    self._tokenizer = _pipeline(model, self.cased, self.strip_accents, chinese)
    self._hidden = frozenset(i for t, i in ids.items() if _bracketed(t))
    special = dict(zip(SPECIALS, (ids[t] for t in SPECIALS), strict=True))
    self.spec = vocab.Vocab(
      size=len(ids),
      pad_id=special["[PAD]"],
      unk_id=special["[UNK]"],
      cls_id=special["[CLS]"],
      sep_id=special["[SEP]"],
      mask_id=special["[MASK]"],
      special_ids=tuple(sorted(special.values())),
      # UNITER's range: from "!" on, [106, 28996) in bert-base-cased.
      valid_range=(ids.get("!", ids[words[0]]), len(ids)),
      digest=self.digest,
    )

  def encode(self, text: str) -> list[int]:
    """Ids of the text, without [CLS] and [SEP]; [] for blanks."""
    return self._tokenizer.encode(files.encodable(text), add_special_tokens=False).ids

  def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
    """`encode` of each text, on all cores."""
    batch = [files.encodable(text) for text in texts]
    found = self._tokenizer.encode_batch(batch, add_special_tokens=False)
    return [e.ids for e in found]

  def word_ids(self, text: str) -> list[int]:
    """For each id of `encode`, the number of its word in the text, from 0."""
    found = self._tokenizer.encode(files.encodable(text), add_special_tokens=False)
    return found.word_ids

  def decode(self, ids: Iterable[int]) -> str:
    """Words parted by blanks, pieces joined; bracketed tokens are left out."""
    kept = (self.tokens[i] for i in map(int, ids) if i not in self._hidden)
    return " ".join(kept).replace(" ##", "").removeprefix("##")

  def save(self, file) -> None:
    """Writes vocab.txt, one token a line."""
    files.write_lines(file, self.tokens)


@functools.lru_cache(maxsize=8)
def _load(file: str, **rules) -> Vocabulary:
  return Vocabulary(files.read_lines(file), **rules)


def load(
  file: str,
  cased: bool | None = None,
  strip_accents: bool | None = None,
  chinese: bool = True,
  max_chars: int = MAX_CHARS,
) -> Vocabulary:
  """The vocabulary of a `vocab.txt`; rules as in `Vocabulary`."""
  rules = dict(cased=cased, strip_accents=strip_accents)
  return _load(str(file), **rules, chinese=chinese, max_chars=max_chars)


def learn(
  texts: Sequence[str],
  size: int = 8192,
  min_count: int = 2,
  cased: bool = False,
  max_alphabet: int = 1000,
) -> Vocabulary:
  """Learns at most `size` tokens: specials, characters, then merges in their order.

  The library numbers the inner characters ("##e") in the order of a randomly seeded
  hash map and breaks ties between merges by those numbers. They are handed in sorted
  instead, so that the result depends on nothing but the multiset of texts.

  Args:
    texts: sentences, in any order.
    size: upper bound of V.
    min_count: pairs that occur less often are not merged.
    cased: keep capitals and accents.
    max_alphabet: the most frequent characters kept; words with others become [UNK].
  """
  texts = [files.encodable(text) for text in texts]
  model = models.WordPiece(unk_token="[UNK]")
  tokenizer = _pipeline(model, cased, strip_accents=not cased, chinese=True)
  normalize = tokenizer.normalizer.normalize_str
  split = tokenizer.pre_tokenizer.pre_tokenize_str
  words = collections.Counter(w for text in texts for w, _ in split(normalize(text)))
  counts = collections.Counter()
  for word, n in words.items():
    counts.update({c: n * word.count(c) for c in set(word)})
  frequent = sorted(counts, key=lambda c: (-counts[c], c))[:max_alphabet]
  if not frequent:
    raise UserError("no text to learn a wordpiece vocabulary from: all are empty.")
  alphabet = sorted(frequent)
  inner = [f"##{c}" for c in alphabet if any(c in word[1:] for word in words)]
  fixed = [*SPECIALS, *inner]
  if len(fixed) + len(alphabet) > size:
    raise UserError(
      f"size is {size}, but special tokens and characters alone are "
      f"{len(fixed) + len(alphabet)}. Raise size or lower max_alphabet={max_alphabet}."
    )
  trainer = trainers.WordPieceTrainer(
    vocab_size=size,
    min_frequency=min_count,
    show_progress=False,
    special_tokens=fixed,
    initial_alphabet=alphabet,
    limit_alphabet=len(alphabet),
  )
  tokenizer.train_from_iterator(texts, trainer)
  learned = tokenizer.get_vocab()
  known = {*fixed, *alphabet}
  merges = [t for t in sorted(learned, key=learned.get) if t not in known]
  return Vocabulary([*SPECIALS, *alphabet, *inner, *merges], cased=cased)
