"""What a task hands to `batches`: a seqio Task, and how its rows become a batch."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import seqio
import tensorflow as tf

from data_pipelines import index


@dataclasses.dataclass(frozen=True)
class Definition:
  """A task over one split.

  A row of a batch is a record, or a part of one (a window, a caption).

  Attributes:
    task: source, preprocessors and output features. Preprocessors are made with
      `one_to_one`, take `seed` ([2] int64: run and epoch, record) and `sub` (int64)
      from the example, and draw with `tf.random.stateless_*` only.
    parse: serialised record -> dict of tensors.
    record, sub: [N] int64, the record of each row, and which part of it.
    lengths: [N] int, tokens of each row; None if all rows have one shape.
    shapes: rung length -> {key: shape without B} of what the preprocessors return.
    finish: (dict of [B, ...] arrays, rung length) -> the batch; numpy, on the host.
    digest: of what changes the rows beside the records (a vocabulary).
    streams: stream -> [N] tokens of each row in it, in the order of `fuse_index`, for
      tasks whose rows can be packed; `lengths` is their sum.
    fill: key -> value at padding where that is not 0.
  """

  task: seqio.Task
  parse: Callable[[tf.Tensor], Mapping[str, tf.Tensor]]
  record: np.ndarray
  sub: np.ndarray
  lengths: np.ndarray | None
  shapes: Callable[[int], dict[str, tuple[int, ...]]]
  finish: Callable[[dict[str, np.ndarray], int], dict[str, np.ndarray]]
  digest: str = ""
  streams: Mapping[str, np.ndarray] | None = None
  fill: Mapping[str, int] = dataclasses.field(default_factory=dict)

  def preprocess(self, x: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """One parsed example through all preprocessors of the task.

    The same as `task.preprocess_postcache` of a data set of it, in one function: each
    `map` of a chain costs more than what it computes.
    """
    for step in self.task.preprocessors:
      x = step.example(x)
    return x


def source(table: index.Table, parse) -> seqio.FileDataSource:
  """The shards of a split as a seqio source."""
  return seqio.FileDataSource(
    read_file_fn=lambda file: tf.data.TFRecordDataset(file).map(parse),
    split_to_filepattern={table.split: [str(p) for p in table.paths]},
    num_input_examples={table.split: len(table)},
  )


def one_shape(
  name: str,
  table: index.Table,
  parse: Callable,
  preprocessors: Sequence[Callable],
  shapes: Mapping[str, tuple[tuple[int, ...], tf.DType]],
  rows: tuple[np.ndarray, np.ndarray],
  finish: Callable,
  vocab=None,
) -> Definition:
  """A definition whose rows all have one shape.

  Args:
    name: of the task; that of the split is added.
    shapes: key -> (shape without B, dtype) of what the preprocessors return.
    rows: (record [N], sub [N]).
    vocab: of the texts, None without any.
  """
  record, sub = rows
  task = seqio.Task(
    f"{name}_{table.split.replace('-', '_')}",
    source=source(table, parse),
    preprocessors=preprocessors,
    output_features={k: feature(len(s), d) for k, (s, d) in shapes.items()},
  )
  return Definition(
    task=task,
    parse=parse,
    record=record.astype(np.int64),
    sub=sub.astype(np.int64),
    lengths=None,
    shapes=lambda _: {k: s for k, (s, _) in shapes.items()},
    finish=finish,
    digest=vocab.spec.digest if vocab is not None else "",
  )


def caption_rows(
  table: index.Table, keep: np.ndarray, train: bool
) -> tuple[np.ndarray, np.ndarray]:
  """(record [N], sub [N]): in evaluation a row for each caption of the records `keep`.

  In training a record with captions is one row.
  """
  counts = table.columns["num_captions"][keep].astype(int)
  counts = np.minimum(counts, 1) if train else counts
  sub = [np.arange(c) for c in counts]
  return np.repeat(keep, counts), np.concatenate([*sub, np.zeros(0, int)])


def ids(row: np.ndarray, record: np.ndarray, queries: bool) -> dict[str, np.ndarray]:
  """The numbers of a batch's examples, int32 [B].

  Args:
    row: [B] rows of the definition, below 0 where there is none.
    record: [B] the record of each.
    queries: rows are texts of which several stand for one record: they are examples of
      their own, `relevance` is the record; else rows of a record are a group.
  """
  if queries:
    return {"example_id": np.maximum(row, 0).astype(np.int32), "relevance": record}
  return {"example_id": record, "group_id": record}


def one_to_one(fn: Callable[[dict], dict]) -> Callable:
  """A seqio preprocessor from a function of one example, which it keeps."""

  def preprocess(dataset):
    return dataset.map(fn)

  preprocess.__name__ = fn.__name__
  preprocess.example = fn
  return preprocess


def feature(rank: int, dtype) -> seqio.Feature:
  """An output feature of numbers."""
  vocabulary = seqio.PassThroughVocabulary(256)
  return seqio.Feature(vocabulary, add_eos=False, rank=rank, dtype=tf.as_dtype(dtype))


def require(condition, what: str, example: Mapping[str, tf.Tensor]) -> None:
  """Sends the example to quarantine, with its key, unless the condition holds."""
  tf.debugging.Assert(condition, [f"{what}:", example["key"]])
