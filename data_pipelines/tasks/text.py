r"""Text to ids in native TensorFlow ops, id for id as `data_pipelines.vocabularies` do.

`tensorflow_text.BertTokenizer` folds case by compatibility (the ligature "fi" becomes
two letters), while BERT removes accents and lowers letter by letter. The steps before
its WordPiece are therefore written out here. RE2 knows `\w` for ASCII only: words are
`[\p{L}\p{N}_']+`. Tables are built eagerly; inside a traced map they fail.

Characters younger than the tables of TensorFlow or of the `tokenizers` library may
differ: capitals after Unicode 13 keep their case here, and WordPiece parts from marks
and punctuation of scripts after Unicode 8 as its own library does not.
"""

from collections.abc import Callable, Iterable

import seqio
import tensorflow as tf
import tensorflow_text as tf_text

from data_pipelines.transforms import bpe
from vlp_jax.errors import UserError

# texts [n] -> (ids, numbers of their words), ragged [n, None] int64 both
Tokenize = Callable[[tf.Tensor], tuple[tf.RaggedTensor, tf.RaggedTensor]]
_CJK = (
  r"([\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2B73F}"
  r"\x{2B740}-\x{2B81F}\x{2B920}-\x{2CEAF}\x{F900}-\x{FAFF}\x{2F800}-\x{2FA1F}])"
)


def _replace(x, *pairs):
  for pattern, to in pairs:
    x = tf.strings.regex_replace(x, pattern, to)
  return x


def _lower(x):
  # One letter at a time: ICU alone would write a sigma at the end of a word otherwise.
  return tf.strings.lower(_replace(x, ("Σ", "σ")), encoding="utf-8")


def _table(tokens, default, without=()) -> tf.lookup.StaticHashTable:
  ids = [i for i, token in enumerate(tokens) if token not in without]
  keys = tf.constant([tokens[i] for i in ids])
  pairs = tf.lookup.KeyValueTensorInitializer(keys, tf.constant(ids, tf.int64))
  return tf.lookup.StaticHashTable(pairs, default)


def _numbered(nested):
  """Ragged [n, words, pieces] -> (ids, the place of each one's word in its text)."""
  word = nested.values.value_rowids()
  row = tf.gather(nested.value_rowids(), word)
  ids = nested.merge_dims(-2, -1)
  return ids, ids.with_flat_values(word - tf.gather(nested.row_starts(), row))


def _wordpiece(vocab) -> Tokenize:
  spec = vocab.spec
  pieces = tf_text.WordpieceTokenizer(
    _table(vocab.tokens, spec.unk_id),
    suffix_indicator="##",
    max_bytes_per_word=4 * vocab.max_chars,
    token_out_type=tf.int64,
    unknown_token="[UNK]",
  )

  def tokenize(texts):  # [n] strings -> ragged [n, None]
    x = _replace(
      texts,
      (r"[\t\n\r]", " "),
      (r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", ""),
      (r"\p{Z}", " "),
      *([(_CJK, r" \1 ")] if vocab.chinese else []),
    )
    if vocab.strip_accents:
      x = _replace(tf_text.normalize_utf8(x, "NFD"), (r"\p{Mn}", ""))
    x = x if vocab.cased else _lower(x)
    # Brackets part, so no "[MASK]" of a caption survives as a token.
    words = tf.strings.split(_replace(x, (r"([!-/:-@\[-`{-~\p{P}])", r" \1 ")))
    size = tf.strings.length(words.flat_values, unit="UTF8_CHAR")
    # NUL is never a token.
    known = tf.where(size <= vocab.max_chars, words.flat_values, "\0")
    return _numbered(pieces.tokenize(words.with_flat_values(known)))

  return tokenize


def _words(vocab) -> Tokenize:
  table = _table(vocab.tokens, 0, without=vocab.stop_words)

  def tokenize(texts):
    x = _replace(texts, (r"\x00", " "))  # lowering would stop there
    x = x if vocab.cased else tf.strings.lower(x, encoding="utf-8")
    ids = table.lookup(tf.strings.split(_replace(x, (r"[^\p{L}\p{N}_']+", " "))))
    place = tf.ragged.range(ids.row_lengths())
    return tuple(tf.ragged.boolean_mask(a, ids > 0) for a in (ids, place))

  return tokenize


def _byte_bpe(vocab) -> Tokenize:
  tokenize = bpe.tokenizer(vocab, bpe.gpt2_words(vocab.add_prefix_space))
  return lambda texts: _numbered(tokenize(texts))


def _clip_bpe(vocab) -> Tokenize:
  if vocab.clean != "nfc":
    raise UserError(
      f"vocab.clean={vocab.clean!r} is beyond TensorFlow. Set clean='nfc', with the "
      "same ids for plain text, or use known_texts.tokenizer in the task."
    )
  tokenize = bpe.tokenizer(vocab, bpe.clip_words(_lower))
  return lambda texts: _numbered(tokenize(texts))


def _sentencepiece(vocab) -> Tokenize:
  pieces = tf_text.SentencepieceTokenizer(model=vocab.model, out_type=tf.int32)
  ids_of = None if vocab.ids is None else tf.constant(vocab.ids, tf.int32)
  starts = tf.constant(vocab.starts, tf.int64)

  def tokenize(texts):
    ids = pieces.tokenize(bpe.valid(texts))
    if ids_of is not None:
      ids = ids.with_flat_values(tf.gather(ids_of, ids.flat_values))
    row = ids.value_rowids()
    first = tf.concat(
      [tf.ones_like(row[:1]), tf.cast(row[1:] != row[:-1], row.dtype)], 0
    )
    begun = tf.cumsum(tf.maximum(tf.gather(starts, ids.flat_values), first))
    of_row = tf.math.unsorted_segment_min(begun, row, ids.nrows())
    number = begun - tf.gather(of_row, row)
    return tf.cast(ids, tf.int64), ids.with_flat_values(number)

  return tokenize


_KINDS = {
  "wordpiece": _wordpiece,
  "words": _words,
  "byte_bpe": _byte_bpe,
  "clip_bpe": _clip_bpe,
  "sentencepiece": _sentencepiece,
}


def numbered(vocab) -> Tokenize:
  """[n] UTF-8 strings -> (ids, word ids), ragged [n, None] int64 both.

  Equal to `vocab.encode` and `vocab.word_ids` of each.
  Args:
    vocab: of `data_pipelines.vocabularies`.
  """
  with tf.init_scope():
    return _KINDS[vocab.kind](vocab)


def tokenizer(vocab) -> Callable[[tf.Tensor], tf.RaggedTensor]:
  """[n] UTF-8 strings -> ragged [n, None] int64, equal to `vocab.encode` of each."""
  tokenize = numbered(vocab)
  return lambda texts: tokenize(texts)[0]


def pad(ids: tf.RaggedTensor, vocab, length: int) -> tuple[tf.Tensor, tf.Tensor]:
  """(ids [n, L] int32, mask [n, L] bool), cut to `length`.

  A text gets the [CLS] and [SEP] of its vocabulary, or what stands for them, both
  within `length`. A text without a word of a dictionary, which has no special tokens,
  has mask False throughout.
  """
  ids = tf.cast(ids, tf.int32)
  ids = wrap(ids[:, : length - marks(vocab)], vocab)[:, :length]
  mask = tf.sequence_mask(ids.row_lengths(), length)
  dense = ids.to_tensor(default_value=vocab.spec.pad_id, shape=[None, length])
  return dense, mask


def marks(vocab) -> int:
  """How many ids `wrap` adds."""
  return (vocab.spec.cls_id >= 0) + (vocab.spec.sep_id >= 0)


def wrap(ids: tf.RaggedTensor, vocab) -> tf.RaggedTensor:
  """[CLS] ids [SEP] for each row of a ragged [n, None] int32, as far as there are."""
  one = tf.ones([ids.nrows(), 1], tf.int32)
  ends = vocab.spec.cls_id, vocab.spec.sep_id
  first, last = ([one * i] if i >= 0 else [] for i in ends)
  return tf.concat([*first, ids, *last], axis=1) if first or last else ids


class Vocabulary(seqio.Vocabulary):
  """A vocabulary of `data_pipelines.vocabularies` as seqio's."""

  def __init__(self, vocab):
    super().__init__(extra_ids=0)
    self.vocab, self._tokenize = vocab, tokenizer(vocab)

  @property
  def bos_id(self) -> int | None:
    return self.vocab.spec.cls_id if self.vocab.spec.cls_id >= 0 else None

  @property
  def eos_id(self) -> int | None:
    return self.vocab.spec.sep_id if self.vocab.spec.sep_id >= 0 else None

  @property
  def pad_id(self) -> int:
    return self.vocab.spec.pad_id

  @property
  def unk_id(self) -> int | None:
    return self.vocab.spec.unk_id

  @property
  def _base_vocab_size(self) -> int:
    return self.vocab.spec.size

  def _encode(self, s: str) -> list[int]:
    return self.vocab.encode(s)

  def _decode(self, ids: Iterable[int]) -> str:
    return self.vocab.decode(ids)

  def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
    """[] or [n] strings -> [L] or ragged [n, None] int32."""
    ids = tf.cast(self._tokenize(tf.reshape(s, [-1])), tf.int32)
    return ids[0] if s.shape.rank == 0 else ids

  def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
    """[L] ids -> the tokens of the ids, joined by blanks."""
    words = tf.gather(tf.constant(list(self.vocab.tokens)), ids)
    return tf.strings.reduce_join(words, axis=-1, separator=" ")

  def __eq__(self, other) -> bool:
    same = isinstance(other, Vocabulary)
    return same and self.vocab.digest == other.vocab.digest

  def __hash__(self) -> int:
    return hash(self.vocab.digest)
