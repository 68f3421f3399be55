r"""Text to ids in native TensorFlow ops, id for id as `data_pipelines.vocabularies` do.

`tensorflow_text.BertTokenizer` folds case by compatibility (the ligature "fi" becomes
two letters), while BERT removes accents and lowers letter by letter. The steps before
its WordPiece are therefore written out here. RE2 knows `\w` for ASCII only: words are
`[\p{L}\p{N}_']+`. Tables are built eagerly; inside a traced map they fail.
"""

from collections.abc import Callable, Iterable

import seqio
import tensorflow as tf
import tensorflow_text as tf_text

_MAX_CHARS = 100  # of a word; longer ones are unknown
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


def _table(tokens, default) -> tf.lookup.StaticHashTable:
  ids = tf.range(len(tokens), dtype=tf.int64)
  pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(list(tokens)), ids)
  return tf.lookup.StaticHashTable(pairs, default)


def _wordpiece(vocab) -> Callable:
  spec = vocab.spec
  pieces = tf_text.WordpieceTokenizer(
    _table(vocab.tokens, spec.unk_id),
    suffix_indicator="##",
    max_bytes_per_word=4 * _MAX_CHARS,
    token_out_type=tf.int64,
    unknown_token="[UNK]",
  )

  def tokenize(texts):  # [n] strings -> ragged [n, None]
    x = _replace(
      texts,
      (r"[\t\n\r]", " "),
      (r"[\p{Cc}\p{Cf}\p{Co}\x{FFFD}]", ""),
      (r"\p{Z}", " "),
      (_CJK, r" \1 "),
    )
    if not vocab.cased:
      x = _lower(_replace(tf_text.normalize_utf8(x, "NFD"), (r"\p{Mn}", "")))
    # Brackets part, so no "[MASK]" of a caption survives as a token.
    words = tf.strings.split(_replace(x, (r"([!-/:-@\[-`{-~\p{P}])", r" \1 ")))
    size = tf.strings.length(words.flat_values, unit="UTF8_CHAR")
    known = tf.where(size <= _MAX_CHARS, words.flat_values, "\0")  # never a token
    return pieces.tokenize(words.with_flat_values(known)).merge_dims(-2, -1)

  return tokenize


def _words(vocab) -> Callable:
  table = _table(vocab.tokens, 0)

  def tokenize(texts):
    x = _replace(texts, (r"\x00", " "))  # lowering would stop there
    x = x if vocab.cased else tf.strings.lower(x, encoding="utf-8")
    ids = table.lookup(tf.strings.split(_replace(x, (r"[^\p{L}\p{N}_']+", " "))))
    return tf.ragged.boolean_mask(ids, ids > 0)

  return tokenize


def tokenizer(vocab) -> Callable[[tf.Tensor], tf.RaggedTensor]:
  """[n] UTF-8 strings -> ragged [n, None] int64, equal to `vocab.encode` of each.

  Args:
    vocab: of `data_pipelines.vocabularies`, `wordpiece` (it has [CLS]) or `words`.
  """
  with tf.init_scope():
    return _wordpiece(vocab) if vocab.spec.cls_id >= 0 else _words(vocab)


def pad(ids: tf.RaggedTensor, vocab, length: int) -> tuple[tf.Tensor, tf.Tensor]:
  """(ids [n, L] int32, mask [n, L] bool), cut to `length`.

  A WordPiece text becomes [CLS] ids [SEP], both within `length`. A text without a
  word of a dictionary, which has no special tokens, has mask False throughout.
  """
  spec = vocab.spec
  ids = tf.cast(ids, tf.int32)
  if spec.cls_id >= 0:
    ids = wrap(ids[:, : length - 2], vocab)
  ids = ids[:, :length]
  mask = tf.sequence_mask(ids.row_lengths(), length)
  dense = ids.to_tensor(default_value=spec.pad_id, shape=[None, length])
  return dense, mask


def wrap(ids: tf.RaggedTensor, vocab) -> tf.RaggedTensor:
  """[CLS] ids [SEP] for each row of a ragged [n, None] int32."""
  one = tf.ones([ids.nrows(), 1], tf.int32)
  return tf.concat([one * vocab.spec.cls_id, ids, one * vocab.spec.sep_id], axis=1)


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
