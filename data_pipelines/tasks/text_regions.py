"""Texts with the regions of one or two images: captions, statements, questions.

Records are those of `data_pipelines.prepare` (kind "regions"): scenes, nlvr,
image_text, vqa, nlvr2, refcoco. A batch has what its data set has, nothing invented.

Batch keys, always:
  text_ids [B, L] = [CLS] words [SEP], text_mask, text_types; regions_features [B, R, D]
  f16, regions_boxes [B, R, 7], regions_mask [B, R]; example_id, example_mask, group_id
  [B] (one number an image, or pair of images)
where the data have them:
  regions_objects, regions_conf [B, R]; regions2_* the same of the second image (NLVR2);
  match [B]; label [B] int32 (NLVR2: the statement is true); answers [B, A] f32, soft
  scores of A answers (VQA, SNLI-VE); label_box [B, 4] f32 and label [B], the region
  that overlaps this box most, -1 where none does by more than half (RefCOCO); in
  evaluation label_sentence [B], which rows have one sentence (NLVR2)
on request:
  regions_probs [B, R, C] f16, regions_attributes, regions_attribute_conf [B, R],
  regions_angles [B, R, 2] (panoramas)
  tag_ids, _mask, _types [B, Lt]: the class names of the regions (OSCAR)
  fuse_index [B, M]: see `pair`; always there for one image

fuse_index compacts [text | tag | regions | regions2] to the rung's M tokens: a row's
real tokens in order, then padded positions in order, so that the masks gathered with it
are right.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines import index, lengths, packing
from data_pipelines.tasks import definition, text
from data_pipelines.transforms import regions
from vlp_jax.errors import UserError

PAIRS, TAGS = ("apart", "joint"), ("none", "stream", "joined")
MATCHED = 0.5  # overlap above which a region shows what a box does
_VERSION = 2  # of the lengths


def _int():
  return tf.io.FixedLenFeature([], tf.int64)


def _string(*default):
  return tf.io.FixedLenFeature([], tf.string, *default)


class _Steps:
  """The preprocessors: each takes and returns one example.

  Args:
    have: `regions.Stored`. parts: `regions.Regions` of each image.
    num_answers: A, 0 without.
  """

  def __init__(self, have, parts, *, num_answers, vocab, max_tokens, max_tags, tags):
    self.have, self.parts, self.num_answers = have, parts, num_answers
    self.vocab, self.max_tokens, self.max_tags = vocab, max_tokens, max_tags
    self.tags, self.tokenize = tags, text.tokenizer(vocab)

  def parse(self, record):
    features = {"key": _string(""), "text": _string()}
    for part in self.parts:
      features |= part.features
    features |= {k: _int() for k in ("match", "label") if k in self.have.context}
    if self.tags != "none":
      features["tags"] = _string("")
    if "refer/box" in self.have.context:
      features["refer/box"] = tf.io.FixedLenFeature([4], tf.float32)
    if self.num_answers:
      features["answers/ids"] = tf.io.VarLenFeature(tf.int64)
      features["answers/scores"] = tf.io.VarLenFeature(tf.float32)
    x = tf.io.parse_single_sequence_example(record, features, {})[0]
    dense = lambda v: v.values if isinstance(v, tf.SparseTensor) else v
    return {k: dense(v) for k, v in x.items()}

  def regions(self, x):
    for part in self.parts:
      x = part.arrays(x)
    return x

  def words(self, x):
    """text_* and tag_*: the tags follow the text, or are a stream with a [SEP]."""
    ids = tf.cast(self.tokenize(x["text"][None]), tf.int32)[:, : self.max_tokens]
    ids = text.wrap(ids, self.vocab)[0]
    types = tf.zeros_like(ids)
    if self.tags != "none":
      tags = tf.cast(self.tokenize(x["tags"][None]), tf.int32)[0, : self.max_tags]
      some = tf.minimum(tf.size(tags), 1)  # without a tag there is no [SEP] either
      tags = tf.concat([tags, tf.repeat(self.vocab.spec.sep_id, some)], axis=0)
      if self.tags == "joined":
        ids = tf.concat([ids, tags], axis=0)
        types = tf.concat([types, tf.ones_like(tags)], axis=0)
      else:
        x |= {"tag_ids": tags, "tag_mask": tf.ones_like(tags, tf.bool)}
        x |= {"tag_types": tf.ones_like(tags)}
    mask = tf.ones_like(ids, tf.bool)
    return x | {"text_ids": ids, "text_mask": mask, "text_types": types}

  def labels(self, x):
    x |= {k: tf.cast(x[k], tf.int32) for k in ("match", "label") if k in x}
    if self.num_answers:
      ids, scores = x["answers/ids"], x["answers/scores"]
      known = (ids >= 0) & (ids < self.num_answers)
      same = tf.equal(tf.size(ids), tf.size(scores))
      definition.require(same & tf.reduce_all(known), "answers beyond the list", x)
      shape = [self.num_answers]
      x |= {"answers": tf.scatter_nd(ids[:, None], scores, shape)}
    if "refer/box" in x:
      over = regions.overlap(x["regions_boxes"], x["refer/box"])
      best = tf.argmax(over, output_type=tf.int32)
      best = tf.where(tf.reduce_max(over) > MATCHED, best, -1)
      x |= {"label_box": x["refer/box"], "label": best}
    return x


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  fields: Sequence[str] = (),
  max_tokens: int = 60,
  max_regions: int = 100,
  tags: str = "none",
  max_tags: int = 50,
  pair: str = "apart",
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: with [CLS] and [SEP], of `data_pipelines.vocabularies`.
    fields: "regions_probs", "regions_attributes", "regions_attribute_conf",
      "regions_angles": what is read beside the rest, of both images. Others may be
      named too, to make sure of them.
    max_tokens: words' tokens without [CLS] and [SEP]. Longer texts are left out in
      training, as UNITER does, and cut in evaluation, where every example counts.
    max_regions: of an image; the first ones in stored order are taken.
    tags: "stream" gives tag_*, "joined" puts tags and a [SEP] behind the text with type
      1, both cut to `max_tags` tokens; "none".
    pair: of data with two images: "apart" for models that encode the text with each,
      "joint" for those that see both at once and take a fuse_index. It decides how long
      a row is for the ladder, 2 text + regions + regions2 or the plain sum.
    where: {column: value or list} of the index.
  Raises: UserError on a bad keyword, an unfit vocabulary, or data without a field.
  """
  for name, value, known in (("pair", pair, PAIRS), ("tags", tags, TAGS)):
    if value not in known:
      raise UserError(f"input.{name}={value!r}. Known: {', '.join(known)}.")
  if min(max_tokens, max_regions, max_tags) < 1:
    raise UserError("input: max_tokens, max_regions and max_tags must be positive.")
  if vocab is None or min(vocab.spec.cls_id, vocab.spec.sep_id) < 0:
    raise UserError(
      "task text_regions needs a vocabulary with [CLS] and [SEP]; set "
      "vocab.name=wordpiece."
    )
  have = regions.stored(table, info)
  if tags != "none" and "tags" not in have.context:
    raise UserError(
      f"input.tags={tags!r}: {table.dir} has none; prepare it with --objects_file, or "
      "from files that hold them."
    )
  names = regions.chosen(table, have, fields)
  widths = {"D": have.dim, "C": have.classes}
  parts = [regions.Regions(s, names, widths, max_regions) for s in have.streams]
  answers = int(info.get("num_answers", 0)) if "answers/ids" in have.context else 0
  limits = dict(max_tokens=max_tokens, max_tags=max_tags, tags=tags)
  steps = _Steps(have, parts, num_answers=answers, vocab=vocab, **limits)
  found = measured(table, vocab, steps.tokenize, have)
  keep = table.select(where or {})
  if train:
    keep = keep[found["words"][keep] <= max_tokens]
  layout = _Layout(found, keep, parts, pair=pair, **limits)
  numbers = {"match": ((), tf.int32), "label": ((), tf.int32)}
  numbers = {k: v for k, v in numbers.items() if k in have.context}
  if answers:
    numbers["answers"] = ((answers,), tf.float32)
  if "refer/box" in have.context:
    numbers |= {"label_box": ((4,), tf.float32), "label": ((), tf.int32)}
  sentences = None
  if "sentence" in table.columns and not train:
    sentences = np.unique(table.columns["sentence"], return_inverse=True)[1]

  def shapes(length):
    return layout.shapes(length) | {k: s for k, (s, _) in numbers.items()}

  def finish(x, length):
    row = x.pop("row")
    record = np.where(row < 0, 0, keep[row])
    for stream in layout.texts:
      ids, mask = x[f"{stream}_ids"], x[f"{stream}_mask"]
      x[f"{stream}_ids"] = np.where(mask, ids, np.int32(vocab.spec.pad_id))
    if layout.fused:
      masks = [x[f"{stream}_mask"] for stream in layout.sizes]
      x["fuse_index"] = packing.fuse_index(np.concatenate(masks, axis=1), length)
    group = np.where(row < 0, 0, found["group"][record]).astype(np.int32)
    if sentences is not None:
      x["label_sentence"] = sentences[record].astype(np.int32)
    return x | {"example_id": record.astype(np.int32), "group_id": group}

  dtypes = {k: d for k, (_, d) in numbers.items()} | layout.dtypes
  run = [steps.regions, steps.words, steps.labels]
  task = seqio.Task(
    f"text_regions_{table.split.replace('-', '_')}",
    source=definition.source(table, steps.parse),
    preprocessors=[definition.one_to_one(fn) for fn in run],
    output_features={
      k: text_feature(vocab)
      if k == "text_ids"
      else definition.feature(len(s), dtypes[k])
      for k, s in (shapes(layout.longest).items() if len(keep) else ())
    },
  )
  return definition.Definition(
    task=task,
    parse=steps.parse,
    record=keep.astype(np.int64),
    sub=np.zeros(len(keep), np.int64),
    lengths=layout.lengths,
    shapes=shapes,
    finish=finish,
    digest=vocab.spec.digest,
    streams=layout.sizes if layout.fused else None,
    fill={f"{stream}_ids": vocab.spec.pad_id for stream in layout.texts},
  )


def measured(table, vocab, tokenize, have) -> dict[str, np.ndarray]:
  """Of each record: words, tags, regions of each image, and the number of its image."""
  features = {"text": _string(), "group": _string(), "tags": _string("")}
  features |= {f"{stream}/num": _int() for stream in have.streams}

  def parse(record):
    return tf.io.parse_single_sequence_example(record, features, {})[0]

  def measure(part):
    count = lambda name: tokenize(tf.constant(part[name])).row_lengths().numpy()
    out = {"words": count("text"), "tags": count("tags")}
    return out | {stream: part[f"{stream}/num"] for stream in have.streams}

  version = f"text_regions {_VERSION} {vocab.spec.digest}"
  return lengths.scan(table, version, parse, measure)


class _Layout:
  """How long rows are, and how wide a batch is.

  Attributes:
    sizes: stream -> [N] tokens, in the order of fuse_index.
    lengths: [N], what the ladder counts. fused: whether that is their sum.
  """

  def __init__(self, found, keep, parts, *, pair, tags, max_tokens, max_tags):
    of = {k: x[keep] for k, x in found.items()}
    text_size = np.minimum(of["words"], max_tokens) + 2
    tag_size = np.minimum(of["tags"], max_tags) + (of["tags"] > 0)
    self.sizes, self.parts = {"text": text_size}, parts
    if tags == "joined":
      self.sizes["text"] = text_size + tag_size
    elif tags == "stream":
      self.sizes["tag"] = tag_size
    self.texts = tuple(self.sizes)
    for part in parts:
      self.sizes[part.stream] = np.minimum(of[part.stream], part.most)
    self.fused = len(parts) == 1 or pair == "joint"
    self.times = {k: 1 if self.fused or k not in self.texts else 2 for k in self.sizes}
    self.lengths = sum(n * self.sizes[k] for k, n in self.times.items())

  @property
  def longest(self) -> int:
    return int(self.lengths.max())

  def shapes(self, length: int) -> dict[str, tuple[int, ...]]:
    """Key -> shape without B: no stream is wider than what fits beside the others."""
    low = {k: int(x.min()) * self.times[k] for k, x in self.sizes.items()}
    widths = {}
    for k, x in self.sizes.items():
      room = (length - sum(low.values()) + low[k]) // self.times[k]
      widths[k] = max(min(int(x.max()), room), 1)
    if self.fused:  # together they fill the rung, so that M is its length
      last = next(reversed(widths))
      widths[last] += max(0, length - sum(widths.values()))
    out = {}
    for stream in self.texts:
      out |= {f"{stream}_{k}": (widths[stream],) for k in ("ids", "mask", "types")}
    for part in self.parts:
      out |= part.shapes(widths[part.stream])
    return out

  @property
  def dtypes(self) -> dict[str, tf.DType]:
    kinds = {"ids": tf.int32, "mask": tf.bool, "types": tf.int32}
    out = {f"{stream}_{k}": d for stream in self.texts for k, d in kinds.items()}
    for part in self.parts:
      out |= part.dtypes
    return out


def text_feature(vocab) -> seqio.Feature:
  """`text_ids` as seqio's output feature."""
  return seqio.Feature(text.Vocabulary(vocab), add_eos=False, dtype=tf.int32)
