"""What a task hands to `batches`: a seqio Task, and how its rows become a batch."""

import dataclasses
from collections.abc import Callable, Mapping

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
