"""Ids of texts that are all known beforehand: for tokenisers that TensorFlow lacks.

`text.tokenizer` does every vocabulary natively but CLIP's with clean="ftfy", and byte
pairs at some 1.5 ms a caption. Where that matters, a task scans its split once, Python
tokenises each distinct text, and the pipeline looks the texts up:

  texts = known_texts.collect(table, lambda record: parse(record)["caption/text"])
  words = known_texts.tokenizer(vocab, texts)

The table stays in memory: about 100 bytes and twice 8 bytes a token for each distinct
text, so 2 GiB for ten million captions. Above `MAX_TOKENS` it is refused.
"""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from data_pipelines import index, read
from vlp_jax.errors import UserError

MAX_TOKENS = 1 << 27
_END = b"\xff"  # in no UTF-8 text


def collect(table: index.Table, strings: Callable) -> list[bytes]:
  """All distinct texts of a split, sorted; damaged records are left out.

  Args:
    strings: [] serialised record -> [n] strings.
  """

  def joined(record):
    found = tf.reshape(strings(record), [-1])
    return {"texts": tf.strings.reduce_join(found, separator=_END)}

  found = set()
  for part in read.scan(table, joined):
    for texts in part["texts"]:
      found.update(texts.split(_END))
  return sorted(found)


def numbered(vocab, texts: Iterable[bytes]) -> Callable:
  """[n] strings -> (ids, word ids), ragged [n, None] int64, as `text.numbered`.

  Args:
    vocab: of `data_pipelines.vocabularies`.
    texts: distinct UTF-8 texts. Any other one is an error, which sends its record to
      quarantine.
  """
  texts = list(texts)
  plain = [text.decode("utf-8", "ignore") for text in texts]
  ids, words = [vocab.encode(t) for t in plain], [vocab.word_ids(t) for t in plain]
  splits = np.cumsum([0, *map(len, ids)])
  if splits[-1] > MAX_TOKENS:
    raise UserError(
      f"{len(texts)} texts have {splits[-1]} tokens; at most {MAX_TOKENS} are kept in "
      "memory. Set clean='nfc', or use text.tokenizer."
    )
  flat = [np.concatenate([*x, np.zeros(0, int)]).astype(np.int64) for x in (ids, words)]
  with tf.init_scope():
    rows = tf.range(len(texts), dtype=tf.int64)
    pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(texts, tf.string), rows)
    table = tf.lookup.StaticHashTable(pairs, -1)
    stored = [tf.RaggedTensor.from_row_splits(f, splits) for f in flat]

  def tokenize(strings):
    row = table.lookup(strings)
    known = tf.debugging.Assert(
      tf.reduce_all(row >= 0), ["a text was not scanned:", strings]
    )
    with tf.control_dependencies([known] if known is not None else []):
      row = tf.identity(row)
    return tuple(tf.gather(x, row) for x in stored)

  return tokenize


def tokenizer(vocab, texts: Iterable[bytes]) -> Callable:
  """[n] strings -> ragged [n, None] int64, as `text.tokenizer`, of known texts."""
  tokenize = numbered(vocab, texts)
  return lambda strings: tokenize(strings)[0]
