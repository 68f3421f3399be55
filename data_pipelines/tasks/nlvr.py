"""Text with image regions: NLVR statements, and any corpus prepared in the same form.

Records are those of `data_pipelines.prepare` (kind "text_regions"): context features
text, group, match, regions/{num,dim,features,boxes,objects,attributes,conf,probs}.

Batch keys: text_ids [B, L] = [CLS] words [SEP], text_mask, text_types (zeros);
regions_features [B, R, D] f16, regions_boxes [B, R, 7], regions_mask, regions_objects,
regions_conf, on request regions_probs [B, R, C] f16 and regions_attributes; fuse_index
[B, M]; match [B] if stored; example_id, group_id (one number per image), example_mask.

fuse_index compacts [text | regions] to the rung's M tokens: a row's real tokens in
order, then padded positions in order, so that the masks gathered with it are right.
"""

import hashlib
import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf
from absl import logging

from data_pipelines import index, packing, read
from data_pipelines.tasks import definition, text
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

# key of the batch -> (name in the record, dtype, axes after R)
ALWAYS = {
  "regions_features": ("features", tf.float16, "D"),
  "regions_boxes": ("boxes", tf.float32, "7"),
  "regions_objects": ("objects", tf.int32, ""),
  "regions_conf": ("conf", tf.float32, ""),
}
FIELDS = {
  "regions_probs": ("probs", tf.float16, "C"),
  "regions_attributes": ("attributes", tf.int32, ""),
}
_SCAN_VERSION = 1


def _string():
  return tf.io.FixedLenFeature([], tf.string)


def _int(default=None):
  return tf.io.FixedLenFeature([], tf.int64, default)


def _parse(record, features):
  return tf.io.parse_single_sequence_example(record, features, {})[0]


def _lengths(table, vocab):
  """Of each record: words, regions, and a dense number of its image; [N] int32 each.

  One scan with the task's own tokeniser, kept beside the shards under the hash of data
  and vocabulary. Damaged records count as the shortest, and then nothing is kept.
  """
  name = f"{table.fingerprint} {vocab.spec.digest} {_SCAN_VERSION}"
  key = hashlib.sha256(name.encode()).hexdigest()[:16]
  path = table.dir / f"{table.split}.lengths-{key}.npz"
  if path.exists():
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as z:
      return {k: z[k] for k in z.files}
  words, groups = text.tokenizer(vocab), np.full(len(table), b"", object)
  found = {k: np.zeros(len(table), np.int32) for k in ("words", "regions")}
  features = {"text": _string(), "regions/num": _int(), "group": _string()}
  bad = np.ones(len(table), bool)
  for part in read.scan(table, lambda r: _parse(r, features)):
    at = part["index"]
    found["words"][at] = words(tf.constant(part["text"])).row_lengths().numpy()
    found["regions"][at] = part["regions/num"]
    groups[at] = part["group"]
    bad[at] = False
  for sizes in found.values():
    sizes[bad] = sizes[~bad].min(initial=np.iinfo(np.int32).max)
  found["group"] = np.unique(groups, return_inverse=True)[1].astype(np.int32)
  if not bad.any():
    _keep(path, found)
  return found


def _keep(path, arrays):
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  partial = path.parent / f"{path.name}.tmp-{os.getpid()}"
  try:
    partial.write_bytes(buffer.getvalue())
    partial.rename(path)
  except OSError as error:
    logging.info("lengths stay in memory, %s cannot be written: %s", path, error)


def _stored(table):
  """D, C (0 without probs) and whether `match` is stored, of the first good record."""
  features = {
    "regions/dim": _int(),
    "regions/num": _int(),
    "match": _int(-1),
    "regions/probs": tf.io.FixedLenFeature([], tf.string, ""),
  }
  for part in read.scan(table, lambda r: _parse(r, features), batch=64):
    size = [len(p) // 2 for p in part["regions/probs"]]
    num = part["regions/num"]
    if num.any():
      first = int(num.argmax())
      width = size[first] // int(num[first])
      return int(part["regions/dim"][first]), width, bool((part["match"] >= 0).any())
  raise UserError(f"{table.dir} ({table.split}): no record with regions can be read.")


class _Steps:
  """The preprocessors: each takes and returns one example."""

  def __init__(self, stored, widths, *, max_regions, has_match):
    self.stored, self.widths, self.max_regions = stored, widths, max_regions
    self.has_match = has_match

  def parse(self, record):
    features = {"key": tf.io.FixedLenFeature([], tf.string, ""), "text": _string()}
    features |= {"regions/num": _int(), "regions/dim": _int()}
    features |= {f"regions/{name}": _string() for name, _, _ in self.stored.values()}
    if self.has_match:
      features["match"] = _int()
    return _parse(record, features)

  def regions(self, x):
    """Bytes to [R, ...] arrays, checked; the first `max_regions` in stored order."""
    num, dim = x["regions/num"], self.widths["D"]
    same = x["regions/dim"] == dim
    definition.require(same, f"region features are not {dim} wide", x)
    out = {}
    for name, (stored, dtype, axis) in self.stored.items():
      flat = tf.io.decode_raw(x[f"regions/{stored}"], dtype)
      shape = [num, self.widths[axis]] if axis else [num]
      value = tf.reshape(flat, tf.stack(shape))[: self.max_regions]
      static = [None, self.widths[axis]] if axis else [None]
      out[name] = tf.ensure_shape(value, static)
    finite = tf.reduce_all(tf.math.is_finite(out["regions_features"]))
    definition.require(finite, "region features are not finite", x)
    boxes = out["regions_boxes"]
    inside = tf.reduce_all((boxes >= -1e-3) & (boxes <= 1 + 1e-3))
    definition.require(inside, "a box lies outside of 0..1", x)
    size = tf.shape(out["regions_features"])[:1]
    return x | out | {"regions_mask": tf.ones(size, tf.bool)}

  def words(self, x, *, words, vocab, max_tokens):
    ids = tf.cast(words(x["text"][None]), tf.int32)[:, :max_tokens]
    ids = text.wrap(ids, vocab)[0]
    return x | {"text_ids": ids, "text_mask": tf.ones_like(ids, tf.bool)}

  def label(self, x):
    return x | {"match": tf.cast(x["match"], tf.int32)}


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  fields: Sequence[str] = (),
  max_tokens: int = 60,
  max_regions: int = 100,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: a WordPiece vocabulary of `data_pipelines.vocabularies`.
    fields: "regions_probs", "regions_attributes": what is read beside the rest.
    max_tokens: words' tokens without [CLS] and [SEP]. Longer texts are left out in
      training, as UNITER does, and cut in evaluation, where every example counts.
    max_regions: the first ones in stored order are taken.
    where: {column: value or list} of the index.
  Raises: UserError on a bad keyword or an unfit vocabulary.
  """
  for field in fields:
    if field not in FIELDS:
      raise UserError(f"input.fields: {field!r}.{nearest(field, FIELDS)}")
  if vocab is None or vocab.spec.cls_id < 0:
    raise UserError(
      "task nlvr needs a vocabulary with [CLS]; set vocab.name=wordpiece."
    )
  dim, classes, has_match = _stored(table)
  if "regions_probs" in fields and not classes:
    raise UserError(f"{table.dir} has no regions/probs; leave regions_probs out.")
  scan = _lengths(table, vocab)
  keep = table.select(where or {})
  if train:
    keep = keep[scan["words"][keep] <= max_tokens]
  words = np.minimum(scan["words"], max_tokens)[keep] + 2
  regions = np.minimum(scan["regions"], max_regions)[keep]
  bounds = [(int(x.min()), int(x.max())) for x in (words, regions) if len(x)]

  stored = ALWAYS | {k: FIELDS[k] for k in fields}
  widths = {"D": dim, "C": classes, "7": 7}
  steps = _Steps(stored, widths, max_regions=max_regions, has_match=has_match)
  tokenizer = text.tokenizer(vocab)

  def tokenize(x):
    return steps.words(x, words=tokenizer, vocab=vocab, max_tokens=max_tokens)

  run = [steps.regions, tokenize, *([steps.label] if has_match else [])]

  def shapes(length):
    (low_text, high_text), (low_regions, high_regions) = bounds
    num_words = min(high_text, length - low_regions)
    num_regions = min(high_regions, length - low_text)
    # Together they fill the rung, so that M is its length.
    num_regions = max(num_regions, length - num_words, 1)
    out = {"text_ids": (num_words,), "text_mask": (num_words,)}
    out["regions_mask"] = (num_regions,)
    for name, (_, _, axis) in stored.items():
      out[name] = (num_regions, widths[axis]) if axis else (num_regions,)
    return out | ({"match": ()} if has_match else {})

  def finish(x, length):
    row, mask = x.pop("row"), x["text_mask"]
    record = np.where(row < 0, 0, keep[row])
    both = np.concatenate([mask, x["regions_mask"]], axis=1)
    return x | {
      "text_ids": np.where(mask, x["text_ids"], np.int32(vocab.spec.pad_id)),
      "text_types": np.zeros_like(x["text_ids"]),
      "fuse_index": packing.fuse_index(both, length),
      "example_id": record.astype(np.int32),
      "group_id": np.where(row < 0, 0, scan["group"][record]).astype(np.int32),
    }

  dtypes = {k: d for k, (_, d, _) in stored.items()} | {"text_ids": tf.int32}
  dtypes |= {"text_mask": tf.bool, "regions_mask": tf.bool, "match": tf.int32}
  task = seqio.Task(
    f"nlvr_{table.split.replace('-', '_')}",
    source=definition.source(table, steps.parse),
    preprocessors=[definition.one_to_one(fn) for fn in run],
    output_features={
      k: text_feature(vocab)
      if k == "text_ids"
      else definition.feature(len(s), dtypes[k])
      for k, s in (shapes(sum(b[1] for b in bounds)).items() if bounds else ())
    },
  )
  return definition.Definition(
    task=task,
    parse=steps.parse,
    record=keep.astype(np.int64),
    sub=np.zeros(len(keep), np.int64),
    lengths=words + regions,
    shapes=shapes,
    finish=finish,
    digest=vocab.spec.digest,
    streams={"text": words, "regions": regions},
    fill={"text_ids": vocab.spec.pad_id},
  )


def text_feature(vocab) -> seqio.Feature:
  """`text_ids` as seqio's output feature."""
  return seqio.Feature(text.Vocabulary(vocab), add_eos=False, dtype=tf.int32)
