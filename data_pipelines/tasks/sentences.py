"""Sentences of documents: pairs for BERT, or plain rows for language models.

Records are those of `data_pipelines.prepare text`: `sentence/text`.

Batch keys: text_ids, text_mask [B, L]; with unit="pairs" text_types [B, L] (1 from the
second sentence on, its [SEP] included) and match [B] (1: the second part follows the
first); example_id, the row; group_id, the document; example_mask.

  pairs  [CLS] a ... [SEP] b ... [SEP]. Both parts are runs of sentences that fill the
         row; with probability 1/2 the second comes from another document (arXiv
         1810.04805, A.2), drawn by the row's seed. In evaluation the pairs are those of
         one fixed seed.
  plain  [CLS] a ... [SEP], as many sentences from the row's on as have room.

A row is a sentence, of pairs one that another follows.
"""

from collections.abc import Mapping

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines import index, read
from data_pipelines.tasks import definition
from data_pipelines.tasks import text as text_lib
from vlp_jax.errors import UserError

UNITS = ("pairs", "plain")
_SWAP, _OTHER, _PLACE, _SPLIT = range(4)  # draws of one example
_LISTS = {
  "sentence/text": tf.io.FixedLenSequenceFeature([], tf.string, allow_missing=True)
}


def parse(record):
  context = {"key": tf.io.FixedLenFeature([], tf.string, "")}
  found = tf.io.parse_single_sequence_example(record, context, _LISTS)
  return found[0] | found[1]


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  unit: str = "pairs",
  max_words: int = 128,
  negative_rate: float = 0.5,
  others: int = 65_536,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: of `data_pipelines.vocabularies`, with [CLS] and [SEP].
    unit: pairs or plain.
    max_words: L, marks included.
    negative_rate: share of pairs that do not belong together.
    others: sentences kept in memory, out of which come the second parts of such pairs;
      of a larger split those of evenly spaced documents.
  Raises: UserError on a bad keyword, or where no document has two sentences.
  """
  if unit not in UNITS:
    raise UserError(f"input.unit={unit!r}. Known: {', '.join(UNITS)}.")
  if max_words < 8 or not 0 <= negative_rate <= 1 or others < 2:
    raise UserError(
      f"input: max_words={max_words} (8 or more), negative_rate={negative_rate} (0 to "
      f"1), others={others} (2 or more)."
    )
  if vocab is None or min(vocab.spec.cls_id, vocab.spec.sep_id) < 0:
    raise UserError("task sentences needs a vocabulary with [CLS] and [SEP].")
  tokenize, spec = text_lib.tokenizer(vocab), vocab.spec
  counts = table.columns["num_sentences"].astype(int) - (unit == "pairs")
  counts = np.maximum(counts, 0)
  record = np.repeat(np.arange(len(table)), counts)
  sub = np.concatenate([*[np.arange(c) for c in counts], np.zeros(0, int)])
  pool = _Pool(table, others) if unit == "pairs" and negative_rate else None

  def draw(x, number, count):
    seed = tf.random.experimental.stateless_fold_in(x["seed"], number)
    share = tf.random.stateless_uniform([], seed)
    whole = tf.cast(share * tf.cast(count, tf.float32), tf.int32)
    return tf.minimum(whole, count - 1)

  def flat(texts):
    return tf.cast(tokenize(texts).flat_values, tf.int32)

  def finished(x, ids, types=None):
    mask = tf.sequence_mask(tf.size(ids), max_words)
    pad = lambda y, value: tf.ensure_shape(
      tf.pad(y, [[0, max_words - tf.size(ids)]], constant_values=value), [max_words]
    )
    x |= {"text_ids": pad(ids, spec.pad_id), "text_mask": mask}
    return x if types is None else x | {"text_types": pad(types, 0)}

  def plain(x):
    texts = x["sentence/text"][tf.cast(x["sub"], tf.int32) :]
    ids = flat(texts)[: max_words - 2]
    return finished(x, tf.concat([[spec.cls_id], ids, [spec.sep_id]], axis=0))

  def pairs(x):
    texts, at = x["sentence/text"], tf.cast(x["sub"], tf.int32)
    definition.require(at + 1 < tf.size(texts), "no such pair", x)
    room = max_words - 3
    # The first part takes a drawn number of sentences, of at most half of the row.
    most = tf.minimum(tf.size(texts) - at - 1, 4)
    after = at + 1 + draw(x, _SPLIT, most)
    first = flat(texts[at:after])[-(room // 2) :]
    second, match = texts[after:], tf.constant(1)
    if pool is not None:
      seed = tf.random.experimental.stateless_fold_in(x["seed"], _SWAP)
      swap = tf.random.stateless_uniform([], seed) < negative_rate
      other, exists = pool.other(x, draw)
      swap &= exists
      second = tf.cond(swap, lambda: other, lambda: second)
      match = tf.where(swap, 0, 1)
    second = flat(second)[: room - tf.size(first)]
    parts = [[spec.cls_id], first, [spec.sep_id], second, [spec.sep_id]]
    size = tf.size(first) + 2
    types = tf.concat([tf.zeros([size], tf.int32), tf.ones_like(second), [1]], axis=0)
    return finished(x, tf.concat(parts, axis=0), types) | {"match": match}

  words = {"text_ids": tf.int32, "text_mask": tf.bool}
  shapes = {k: ((max_words,), d) for k, d in words.items()}
  if unit == "pairs":
    shapes |= {"text_types": ((max_words,), tf.int32), "match": ((), tf.int32)}

  def finish(x, _):
    row = x.pop("row")
    document = np.where(row < 0, 0, record[row]).astype(np.int32)
    own = np.maximum(row, 0).astype(np.int32)
    return x | {"example_id": own, "group_id": document}

  task = seqio.Task(
    f"sentences_{table.split.replace('-', '_')}",
    source=definition.source(table, parse),
    preprocessors=[definition.one_to_one(pairs if unit == "pairs" else plain)],
    output_features={k: definition.feature(len(s), d) for k, (s, d) in shapes.items()},
  )
  return definition.Definition(
    task=task,
    parse=parse,
    record=record.astype(np.int64),
    sub=sub.astype(np.int64),
    lengths=None,
    shapes=lambda _: {k: s for k, (s, _) in shapes.items()},
    finish=finish,
    digest=spec.digest,
  )


class _Pool:
  """Sentences by document, out of which a part of another document is taken."""

  def __init__(self, table: index.Table, size: int):
    step = max(1, -(-int(table.columns["num_sentences"].sum()) // size))

    def load(record):
      texts = parse(record)["sentence/text"]
      return {
        "key": parse(record)["key"],
        "text": tf.strings.reduce_join(texts, separator="\n"),
      }

    texts, keys, starts = [], [], [0]
    for part in read.scan(table, load):
      for place, key, text in zip(
        part["index"], part["key"], part["text"], strict=True
      ):
        if place % step == 0:
          texts += text.split(b"\n")
          keys.append(key)
          starts.append(len(texts))
    with tf.init_scope():
      self.texts, self.keys = tf.constant(texts), tf.constant(keys)
      self.starts = tf.constant(starts, tf.int32)
    self.count = len(keys)

  def other(self, x, draw):
    """(sentences [n] from a drawn place of another document on, whether there is one).

    Of the documents but the own one each is as likely.
    """
    own = tf.where(self.keys == x["key"])[:, 0]
    own = tf.cast(tf.concat([own, [self.count]], axis=0)[0], tf.int32)
    choices = self.count - tf.cast(own < self.count, tf.int32)
    at = draw(x, _OTHER, tf.maximum(choices, 1))
    at = tf.minimum(at + tf.cast(at >= own, tf.int32), self.count - 1)
    low, high = self.starts[at], self.starts[at + 1]
    place = low + draw(x, _PLACE, high - low)
    return self.texts[place:high], choices > 0
