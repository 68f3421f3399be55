r"""Byte pair encoding in native TensorFlow ops, id for id as `vocabularies` do.

tensorflow_text has no byte pair encoding. Here each word that is one token is found in
a table of bytes, and the others go through the merges together: a loop finds the pair
of lowest rank in every word and merges all its places, until none has a rank. A
caption takes about as long as its rarest word has merges.

Words are found by RE2, which differs from the library's expressions: `\s` is ASCII,
there is no lookahead, and its Unicode is older. The missing letters and numbers are
written out; `tests/data_pipelines/test_native_text.py` compares every code point. The
byte FF, which is in no UTF-8 text, marks the ends of words.
"""

from collections.abc import Callable

import tensorflow as tf
import tensorflow_text as tf_text

Words = Callable[[tf.Tensor], tf.RaggedTensor]
END = b"\xff"
SPACE = r"\t-\r \x{85}\p{Z}"
# Unicode 15.1 to 17, which the `tokenizers` library knows and RE2 does not.
LETTER = (
  r"\p{L}\x{1C89}\x{1C8A}\x{A7CB}-\x{A7CD}\x{A7DA}-\x{A7DC}\x{105C0}-\x{105F3}"
  r"\x{10D4A}-\x{10D65}\x{10D6F}-\x{10D85}\x{10EC2}-\x{10EC4}\x{11380}-\x{11389}"
  r"\x{1138B}\x{1138E}\x{11390}-\x{113B5}\x{113B7}\x{113D1}\x{113D3}"
  r"\x{11BC0}-\x{11BE0}\x{13460}-\x{143FA}\x{16100}-\x{1611D}\x{16D40}-\x{16D6C}"
  r"\x{18CFF}\x{1E5D0}-\x{1E5ED}\x{1E5F0}\x{2EBF0}-\x{2EE5D}"
)
NUMBER = (
  r"\p{N}\x{10D40}-\x{10D49}\x{116D0}-\x{116E3}\x{11BF0}-\x{11BF9}"
  r"\x{16130}-\x{16139}\x{16D70}-\x{16D79}\x{1CCF0}-\x{1CCF9}\x{1E5F1}-\x{1E5FA}"
)
OTHER = f"[^{SPACE}{LETTER}{NUMBER}]"
SHORT = "'s|'t|'re|'ve|'m|'ll|'d"
_NO_RANK = tf.int64.max


def valid(texts: tf.Tensor) -> tf.Tensor:
  """UTF-8 without what is none."""
  return tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="ignore")


def _cut(marked: tf.Tensor) -> tf.RaggedTensor:
  words = tf.strings.split(marked, END)
  return tf.ragged.boolean_mask(words, tf.strings.length(words) > 0)


def gpt2_words(add_prefix_space: bool) -> Words:
  r"""GPT-2's words; `\s+(?!\S)` leaves the last space of several to the next word."""
  last = f"([{SPACE}]+)([{SPACE}][^{SPACE}])"
  word = f"{SHORT}| ?[{LETTER}]+| ?[{NUMBER}]+| ?{OTHER}+|[{SPACE}]+"

  def words(texts):
    x = valid(texts)
    if add_prefix_space:
      bare = tf.strings.regex_full_match(x, "(?s)[^ ].*")
      x = tf.where(bare, tf.strings.join([" ", x]), x)
    x = tf.strings.regex_replace(x, last, rb"\1" + END + rb"\2")
    return _cut(tf.strings.regex_replace(x, word, rb"\0" + END))

  return words


def clip_words(lower: Callable[[tf.Tensor], tf.Tensor]) -> Words:
  """CLIP's words of text in composed form (NFC) and lower case."""
  word = f"{SHORT}|[{LETTER}]+|[{NUMBER}]|{OTHER}+"

  def words(texts):
    x = lower_all(tf_text.normalize_utf8(valid(texts), "NFC"), lower)
    x = tf.strings.regex_replace(x, f"[{SPACE}]+", END)
    return _cut(tf.strings.regex_replace(x, word, rb"\0" + END))

  return words


def lower_all(texts, lower):
  """`lower` of the parts between NULs, where lowering would stop."""
  apart = tf.strings.regex_replace(texts, r"\x00", b"\xfe\x00\xfe")
  parts = tf.strings.split(apart, b"\xfe")
  flat = parts.flat_values
  flat = tf.where(flat == b"\0", flat, lower(flat))
  return tf.strings.reduce_join(parts.with_flat_values(flat), axis=-1, separator="")


def _static(keys, values, default) -> tf.lookup.StaticHashTable:
  pairs = tf.lookup.KeyValueTensorInitializer(keys, tf.constant(values, tf.int64))
  return tf.lookup.StaticHashTable(pairs, default)


class _Merges:
  """The tables of a vocabulary's engine, made eagerly."""

  def __init__(self, engine, size: int):
    self.size = size
    whole = engine.whole()
    self.whole = _static(tf.constant(list(whole)), list(whole.values()), -1)
    self.bytes = tf.constant(engine.bytes, tf.int64)
    self.ends = tf.constant(engine.ends, tf.int64)
    first = {}
    for rank, (left, right, _) in enumerate(engine.merges):
      first.setdefault(left * size + right, rank)
    keys = tf.constant(list(first), tf.int64)
    self.ranks = _static(keys, list(first.values()), _NO_RANK)
    self.products = tf.constant([m[2] for m in engine.merges] or [0], tf.int64)

  def _ranked(self, ids, row):
    pair = ids[:-1] * self.size + ids[1:]
    rank = self.ranks.lookup(pair)
    return tf.where(row[:-1] == row[1:], rank, _NO_RANK)

  def _step(self, ids, row, rank, n):
    """All places of the pair of lowest rank of each word, merged."""
    best = tf.math.unsorted_segment_min(rank, row[:-1], n)
    hit = (rank == tf.gather(best, row[:-1])) & (rank < _NO_RANK)
    # In "aaa" the places overlap: every other one of a run counts.
    first = hit & ~tf.concat([[False], hit[:-1]], 0)
    starts = tf.concat([[0], tf.where(first)[:, 0]], 0)
    run = tf.gather(starts, tf.cumsum(tf.cast(first, tf.int32)))
    at = tf.range(tf.size(hit, tf.int64))
    hit &= (at - run) % 2 == 0
    made = tf.gather(self.products, tf.where(hit, rank, 0))
    ids = tf.concat([tf.where(hit, made, ids[:-1]), ids[-1:]], 0)
    keep = tf.concat([[True], ~hit], 0)
    ids, row = tf.boolean_mask(ids, keep), tf.boolean_mask(row, keep)
    return ids, row, self._ranked(ids, row)

  def _pieces(self, words):
    """(ids [m], place of their word [m]) of words [n] of at least two tokens."""
    n = tf.size(words, tf.int64)
    letters = tf.strings.bytes_split(words)
    row = letters.value_rowids()
    codes = tf.reshape(tf.io.decode_raw(letters.flat_values, tf.uint8), [-1])
    codes = tf.cast(codes, tf.int32)
    last = tf.concat([row[1:] != row[:-1], [True]], 0)[: tf.size(row)]
    ids = tf.where(last, tf.gather(self.ends, codes), tf.gather(self.bytes, codes))
    any_length = (tf.TensorShape([None]),) * 3
    ids, row, _ = tf.while_loop(
      lambda ids, row, rank: tf.reduce_any(rank < _NO_RANK),
      lambda ids, row, rank: self._step(ids, row, rank, n),
      (ids, row, self._ranked(ids, row)),
      shape_invariants=any_length,
    )
    return ids, row

  def __call__(self, words: tf.Tensor) -> tf.RaggedTensor:
    """[n] words -> ragged [n, None] int64."""
    whole = self.whole.lookup(words)
    known, rest = tf.where(whole >= 0)[:, 0], tf.where(whole < 0)[:, 0]
    ids, row = self._pieces(tf.gather(words, rest))
    ids = tf.concat([tf.gather(whole, known), ids], 0)
    row = tf.concat([known, tf.gather(rest, row)], 0)
    order = tf.argsort(row, stable=True)
    return tf.RaggedTensor.from_value_rowids(
      tf.gather(ids, order), tf.gather(row, order), tf.size(words, tf.int64)
    )


def tokenizer(vocab, words: Words) -> Callable[[tf.Tensor], tf.RaggedTensor]:
  """[n] UTF-8 strings -> ragged [n, words, pieces] int64.

  Args:
    vocab: of `byte_bpe` or `clip_bpe`.
    words: [n] strings to ragged [n, None] words.
  """
  merge = _Merges(vocab.engine, vocab.spec.size)

  def tokenize(texts):
    found = words(texts)
    return found.with_flat_values(merge(found.flat_values))

  return tokenize
