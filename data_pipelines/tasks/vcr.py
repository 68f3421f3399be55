"""VCR: each answer or rationale of a question as a row of its own.

Records are those of `data_pipelines.prepare vcr`.

Batch keys: text_ids [B, L], text_mask, text_types; regions_* as of
`tasks/text_regions.py`; fuse_index [B, M]; label [B] int32, 1 for the right choice, 0,
or -1 where it is not told; label_choice [B], its number, 0 to 3 (label_answer [B] the
answer before it, with given="all"); example_id, the row; group_id, the question with
its kind (2 k: its answers, 2 k + 1: its rationales); example_mask [B].

  qa   [CLS] question [SEP] answer [SEP]
  qar  [CLS] question [SEP] answer [SEP] rationale [SEP], the answer the right one

Types are 0 of the question, 2 of the answer, 3 of the rationale (1 is the regions').
Source: published code of UNITER (arXiv 1909.11740).
"""

from collections.abc import Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines import index, lengths, packing
from data_pipelines.tasks import definition, text, text_regions
from data_pipelines.transforms import regions
from vlp_jax.errors import UserError

KINDS, SEPARATORS, GIVEN = ("qa", "qar"), ("follows", "precedes"), ("right", "all")
TYPES, CHOICES = (0, 2, 3), 4
_VERSION = 1


def types(sizes: Sequence, separator: str) -> tf.Tensor:
  """[L] int32, types of [CLS] a [SEP] b [SEP] (c [SEP]) with parts of these sizes.

  Args:
    separator: "follows": an inner [SEP] has the type of the part after it (fine-tuning,
      evaluation); "precedes": of the part before it (second-stage pretraining).
  """
  counts, last = [], len(sizes) - 1
  for k, size in enumerate(sizes):
    own = 1 + (k == 0) if separator == "precedes" else 1 + (k == last)
    counts.append(size + own)
  return tf.repeat(tf.constant(TYPES[: len(sizes)], tf.int32), tf.stack(counts))


def rows(num: int, kinds: Sequence[str], given: str) -> tuple[np.ndarray, np.ndarray]:
  """(record [N], sub [N]) of `num` questions.

  `sub` is 0 to 3 for answers and 4 + 4 answer + rationale for rationales; with
  given="right" the answer is 4, to be looked up.
  """
  sub = list(range(CHOICES)) if "qa" in kinds else []
  if "qar" in kinds:
    before = range(CHOICES) if given == "all" else (CHOICES,)
    sub += [CHOICES + CHOICES * a + r for a in before for r in range(CHOICES)]
  return np.repeat(np.arange(num), len(sub)), np.tile(sub, num)


def parser(part: regions.Regions | None):
  """record -> dict of tensors; without `part` the texts alone."""
  number = tf.io.FixedLenFeature([], tf.int64)
  string = tf.io.FixedLenFeature([], tf.string)
  context = {"key": string, "text": string, "group": string}
  context |= {k: number for k in ("label", "rationale_label", "regions/num")}
  context |= part.features if part else {}
  many = tf.io.FixedLenSequenceFeature([], tf.string)
  lists = {"answer/text": many, "rationale/text": many}

  def parse(record):
    found = tf.io.parse_single_sequence_example(record, context, lists)
    x = found[0] | found[1]
    for name in lists:
      definition.require(tf.size(x[name]) == CHOICES, f"not four of {name}", x)
    return x

  return parse


def define(
  table: index.Table,
  info: Mapping,
  *,
  vocab,
  train: bool,
  kinds: Sequence[str] = KINDS,
  given: str = "right",
  separator: str = "follows",
  fields: Sequence[str] = (),
  max_tokens: int = 220,
  max_regions: int = 100,
  where: Mapping | None = None,
) -> definition.Definition:
  """The task over one split.

  Args:
    vocab: with [CLS] and [SEP], of `data_pipelines.vocabularies`.
    kinds: qa, qar; both are trained together.
    given: answer in front of a rationale: "right", or in evaluation "all" four, as the
      test server asks for (16 rows a question). Rows whose right answer is not told
      are left out.
    separator: whose type an inner [SEP] has, see `types`.
    fields: as in text_regions.
    max_tokens: of a row's text with its marks. Longer rows are left out in training and
      cut in evaluation.
    max_regions: the first ones in stored order are taken, true boxes first.
    where: {column: value or list} of the index.
  Raises: UserError on a bad keyword, an unfit vocabulary, or data without a field.
  """
  unknown = [k for k in kinds if k not in KINDS]
  if unknown or not kinds or separator not in SEPARATORS or given not in GIVEN:
    raise UserError(
      f"input: kinds={tuple(kinds)} of {KINDS}, given={given!r} of {GIVEN}, "
      f"separator={separator!r} of {SEPARATORS}."
    )
  if given == "all" and train:
    raise UserError("input.given='all' is for evaluation; training has the right one.")
  if max_tokens < 8 or max_regions < 1:
    raise UserError("input: max_tokens is at least 8, max_regions 1.")
  if vocab is None or min(vocab.spec.cls_id, vocab.spec.sep_id) < 0:
    raise UserError("task vcr needs a vocabulary with [CLS] and [SEP].")
  have = regions.stored(table, info)
  names = regions.chosen(table, have, fields)
  widths = {"D": have.dim, "C": have.classes}
  part = regions.Regions("regions", names, widths, max_regions)
  tokenize, spec = text.tokenizer(vocab), vocab.spec
  found = _measured(table, vocab, tokenize)
  record, sub = rows(len(table), kinds, given)
  size, right = _sizes(found, record, sub)
  keep = np.isin(record, table.select(where or {})) & (right >= 0)
  if train:
    keep &= size <= max_tokens
  record, sub, size = record[keep], sub[keep], np.minimum(size, max_tokens)[keep]
  sizes = {"text": size, "regions": np.minimum(found["regions"], max_regions)[record]}

  def words(x):
    sub = tf.cast(x["sub"], tf.int32)
    kind = tf.cast(sub >= CHOICES, tf.int32)
    before, choice = (sub - CHOICES) // CHOICES, sub % CHOICES
    label = tf.cast(x["label"], tf.int32)
    before = tf.where(before == CHOICES, label, before)
    answer = tf.clip_by_value(tf.where(kind == 1, before, choice), 0, CHOICES - 1)
    texts = [x["text"], x["answer/text"][answer], x["rationale/text"][choice]]
    parts = tf.cast(tokenize(tf.stack(texts)), tf.int32)
    join = lambda n: _joined([parts[k] for k in range(n)], spec, separator)
    ids, kinds_of = tf.cond(kind == 1, lambda: join(3), lambda: join(2))
    short = tf.concat([ids[: max_tokens - 1], [spec.sep_id]], axis=0)
    ids = tf.cond(tf.size(ids) > max_tokens, lambda: short, lambda: ids)
    kinds_of = kinds_of[:max_tokens]
    target = tf.where(kind == 1, tf.cast(x["rationale_label"], tf.int32), label)
    right = tf.where(target < 0, -1, tf.cast(target == choice, tf.int32))
    x |= {"text_ids": ids, "text_types": kinds_of, "label": right}
    x |= {"text_mask": tf.ones_like(ids, tf.bool), "label_choice": choice}
    return x | {"label_answer": tf.where(kind == 1, before, -1)}

  def shapes(length):
    low = {k: int(v.min()) for k, v in sizes.items()}
    num_words = min(int(size.max()), length - low["regions"])
    num = min(int(sizes["regions"].max()), length - low["text"])
    num = max(num, length - num_words, 1)  # together they fill the rung
    out = {f"text_{k}": (num_words,) for k in ("ids", "mask", "types")}
    return out | part.shapes(num) | {k: () for k in _LABELS}

  def finish(x, length):
    row = x.pop("row")
    at = np.maximum(row, 0)
    masks = [x[f"{stream}_mask"] for stream in sizes]
    question = 2 * record[at] + (sub[at] >= CHOICES)
    return x | {
      "text_ids": np.where(masks[0], x["text_ids"], np.int32(spec.pad_id)),
      "fuse_index": packing.fuse_index(np.concatenate(masks, axis=1), length),
      "example_id": at.astype(np.int32),
      "group_id": question.astype(np.int32),
    }

  dtypes = {"text_ids": tf.int32, "text_mask": tf.bool, "text_types": tf.int32}
  dtypes |= part.dtypes | dict.fromkeys(_LABELS, tf.int32)
  whole = sizes["text"] + sizes["regions"]
  parse = parser(part)
  task = seqio.Task(
    f"vcr_{table.split.replace('-', '_')}",
    source=definition.source(table, parse),
    preprocessors=[definition.one_to_one(fn) for fn in (part.arrays, words)],
    output_features={
      k: text_regions.text_feature(vocab)
      if k == "text_ids"
      else definition.feature(len(s), dtypes[k])
      for k, s in (shapes(int(whole.max())).items() if len(record) else ())
    },
  )
  return definition.Definition(
    task=task,
    parse=parse,
    record=record.astype(np.int64),
    sub=sub.astype(np.int64),
    lengths=whole,
    shapes=shapes,
    finish=finish,
    digest=spec.digest,
    streams=sizes,
    fill={"text_ids": spec.pad_id},
  )


_LABELS = ("label", "label_choice", "label_answer")


def _joined(parts, spec, separator):
  """([CLS] a [SEP] b [SEP] ..., types)."""
  sep = tf.constant([spec.sep_id])
  ids = [tf.constant([spec.cls_id])]
  for ids_of in parts:
    ids += [ids_of, sep]
  return tf.concat(ids, 0), types([tf.size(p) for p in parts], separator)


def _measured(table, vocab, tokenize) -> dict[str, np.ndarray]:
  """Of each record: tokens of the question and of the eight choices, regions, label."""
  parse = parser(None)

  def fn(record):
    x = parse(record)
    texts = tf.concat([[x["text"]], x["answer/text"], x["rationale/text"]], axis=0)
    own = {f"text{k}": texts[k] for k in range(1 + 2 * CHOICES)}
    return own | {k: x[k] for k in ("group", "label", "regions/num")}

  def measure(part):
    count = lambda name: tokenize(tf.constant(part[name])).row_lengths().numpy()
    out = {f"text{k}": count(f"text{k}") for k in range(1 + 2 * CHOICES)}
    return out | {"regions": part["regions/num"], "label": part["label"]}

  return lengths.scan(table, f"vcr {_VERSION} {vocab.spec.digest}", fn, measure)


def _sizes(found, record, sub) -> tuple[np.ndarray, np.ndarray]:
  """([N] tokens with marks, [N] the answer in the row, -1 where it is not told)."""
  each = np.stack([found[f"text{k}"] for k in range(1 + 2 * CHOICES)], axis=1)
  before, choice = (sub - CHOICES) // CHOICES, sub % CHOICES
  rationale = sub >= CHOICES
  label = found["label"][record]
  answer = np.where(rationale, np.where(before == CHOICES, label, before), choice)
  size = each[record, 0] + each[record, 1 + np.maximum(answer, 0)] + 3
  more = each[record, 1 + CHOICES + choice] + 1
  return size + np.where(rationale, more, 0), answer
