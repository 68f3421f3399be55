"""Planned ids to batches in native tf.data ops: each record by its byte offset.

A batch is read in one go as long as nothing is wrong with it. If anything is, it is
read once more row by row: a damaged record costs itself alone, the row's next candidate
takes its place, and the difference between planned and used ids tells which records
are bad. This is the only file that builds on `_inputs`, a private hook of
`tf.data.Dataset` (TensorFlow 2.21); `tests/data_pipelines/test_read.py` holds it to its
behaviour.
"""

import collections
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures

import numpy as np
import tensorflow as tf

from data_pipelines import index, plan
from data_pipelines.tasks import definition as definitions
from vlp_jax.errors import UserError

_BUFFER = 1 << 18  # bytes read at once
_THREADS = "read-records"
_SCALAR = tf.TensorSpec([], tf.int64)
_PLANNED = {k: _SCALAR for k in ("window", "batch", "epoch", "rung")}
_PLANNED["candidates"] = tf.TensorSpec([None, None], tf.int64)


class Record(tf.data.Dataset):
  """0 or 1 records: the one of `path` at byte `offset`, and what follows it."""

  def __init__(self, path, offset):
    super().__init__(
      tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type="",
        buffer_size=tf.constant(_BUFFER, tf.int64),
        byte_offsets=[offset],
      )
    )

  def _inputs(self):
    return []

  @property
  def element_spec(self):
    return tf.TensorSpec([], tf.string)


def hide_accelerators() -> None:
  """Keeps TensorFlow off GPUs: it would take their memory from JAX."""
  if tf.config.list_physical_devices("GPU"):
    tf.config.set_visible_devices([], "GPU")


class _Places:
  """The index on the TensorFlow side: record -> its dataset of 0 or 1 elements."""

  def __init__(self, table: index.Table):
    with tf.init_scope():
      self.paths = tf.constant([str(p) for p in table.paths])
      self.file = tf.constant(table.file)
      self.offset = tf.constant(table.offset)

  def record(self, i):
    path = tf.gather(self.paths, tf.gather(self.file, i))
    return Record(path, tf.gather(self.offset, i)).take(1)


def scan(
  table: index.Table, fn: Callable, *, batch: int = 1024
) -> Iterator[dict[str, np.ndarray]]:
  """Batches of `fn(serialised record)` over a split, damaged records left out.

  Args:
    fn: [] string tensor -> dict of scalar tensors.
  Returns: dicts of [n] arrays with `index` [n] int64, the records in order.
  """
  _check_open(table.paths)
  places = _Places(table)

  def one(i):
    ds = places.record(i).map(lambda r: {"index": i, **fn(r)})
    return ds.ignore_errors()

  ids = tf.data.Dataset.range(len(table))
  return ids.flat_map(one).batch(batch).prefetch(1).as_numpy_iterator()


def _message(error) -> str:
  """The cause in an error of TensorFlow, without the places in the graph."""
  text = re.sub(r"\[Op:.*|\[\[.*|\{\{.*?\}\}", "", error.message)
  lines = [line.strip() for line in text.splitlines() if line.strip()]
  place = (
    r"Graph execution error|Detected at node|File \"|<stack traces|\d+ (root|error)"
  )
  causes = [line for line in lines if not re.match(place, line)] or lines
  cause = re.sub(r"^.*transformation with iterator: \S+: ", "", causes[-1])
  return " ".join(cause.split())[:300]


def _check_open(paths: Iterable) -> None:
  """Raises UserError for a shard that cannot be opened.

  Each further call meets that error again, so that `ignore_errors` would never end.
  """
  for path in paths:
    try:
      with tf.io.gfile.GFile(str(path), "rb") as file:
        file.read(1)
    except tf.errors.OpError as error:
      raise UserError(f"{path}: the shard cannot be read: {_message(error)}") from None


class Reader:
  """Rows of a task, batch by batch.

  Args:
    table, definition: the source and what is made of its records.
    rungs: static shapes; `definition.shapes(length)` gives the widths of each.
    seed: of the run; goes with epoch and record into the preprocessors' seed.
    workers: batches made at the same time; the number of cores serves best.
  """

  def __init__(
    self,
    table: index.Table,
    definition: definitions.Definition,
    rungs: Sequence[plan.Rung],
    *,
    seed: int = 0,
    workers: int = 2,
  ):
    hide_accelerators()
    self.table, self.definition, self.workers = table, definition, workers
    self._places, self._seed = _Places(table), seed
    self._record = tf.constant(definition.record, tf.int64)
    self._sub = tf.constant(definition.sub, tf.int64)
    shapes = [definition.shapes(r.length) for r in rungs]
    self._shapes = {
      k: tf.constant([s[k] for s in shapes], tf.int64, (len(rungs), len(shapes[0][k])))
      for k in shapes[0]
    }
    # Traced once: a restore or another evaluation costs no second trace.
    self._whole = tf.function(self._together, [_PLANNED], autograph=False)
    self._make = tf.function(self._batch, [_PLANNED], autograph=False)
    self._probe = tf.function(self._count, [_SCALAR] * 3, autograph=False)

  def _example(self, record, row, epoch):
    """A serialised record through the task's preprocessors."""
    i = tf.gather(self._record, row)
    given = {
      "index": i,
      "sub": tf.gather(self._sub, row),
      "seed": tf.stack([tf.constant(self._seed << 32, tf.int64) + epoch, i]),
    }
    x = self.definition.preprocess({**self.definition.parse(record), **given})
    return {**{k: x[k] for k in self._shapes}, "row": row}

  def _row(self, row, epoch):
    """0 or 1 examples."""
    found = self._places.record(tf.gather(self._record, row))
    return found.map(lambda r: self._example(r, row, epoch))

  def _fitting(self, row, epoch, rung):
    """`_row`, but an error where it does not fit the rung's widths."""

    def check(x):
      for key, shapes in self._shapes.items():
        size, room = tf.shape(x[key], tf.int64), shapes[rung]
        with tf.control_dependencies(
          [tf.debugging.assert_less_equal(size, room, f"{key} is above its width")]
        ):
          x = x | {key: tf.identity(x[key])}
      return x

    return self._row(row, epoch).map(check)

  def _blank(self, spec):
    """An example of nothing: sizes of 0 where free, masks False, row NONE."""
    zeros = {
      k: tf.zeros([n or 0 for n in s.shape.as_list()], s.dtype) for k, s in spec.items()
    }
    return tf.data.Dataset.from_tensors(
      zeros | {"row": tf.constant(plan.NONE, tf.int64)}
    )

  def _padded(self, examples, planned):
    """One batch of the dataset's examples, padded to the widths of the rung."""
    shapes = {k: s[planned["rung"]] for k, s in self._shapes.items()}
    shapes["row"] = tf.zeros([0], tf.int64)
    size = tf.shape(planned["candidates"], tf.int64)[0]
    return examples.padded_batch(size, shapes).get_single_element()

  def _together(self, planned):
    """All first candidates as one dataset: an error anywhere is an error of the batch.

    A record beyond the end of its file is no error, but leaves the batch short.
    """
    rows = tf.data.Dataset.from_tensor_slices(planned["candidates"][:, 0])
    found = rows.flat_map(lambda i: self._places.record(tf.gather(self._record, i)))
    pairs = tf.data.Dataset.zip((rows, found))
    examples = pairs.map(lambda i, r: self._example(r, i, planned["epoch"]))
    return self._padded(examples, planned)

  def _batch(self, planned):
    """Row by row, each with its spares."""
    epoch, rung = planned["epoch"], planned["rung"]

    def first_good(rows):  # later candidates are read only if the earlier ones fail
      ds = tf.data.Dataset.from_tensor_slices(rows).filter(lambda i: i >= 0)
      ds = ds.flat_map(lambda i: self._fitting(i, epoch, rung).ignore_errors())
      return ds.concatenate(self._blank(ds.element_spec)).take(1)

    rows = tf.data.Dataset.from_tensor_slices(planned["candidates"])
    return self._padded(rows.flat_map(first_good), planned)

  def _clean(self, planned):
    """The batch, if nothing is wrong with any of its first candidates; else None."""
    real = planned["candidates"][:, 0] != plan.NONE
    if not real.any():
      return None
    some = {k: planned[k] for k in _PLANNED}
    some["candidates"] = planned["candidates"][real]
    try:
      made = self._whole({k: tf.constant(x) for k, x in some.items()})
    except tf.errors.OpError:
      return None  # which row it is, and why, is found one by one
    made = {k: x.numpy() for k, x in made.items()}
    if len(made["row"]) < real.sum():
      return None
    if real.all():
      return made
    out = {k: np.zeros((len(real), *x.shape[1:]), x.dtype) for k, x in made.items()}
    out["row"] += plan.NONE
    for key, x in made.items():
      out[key][real] = x
    return out

  def _read(self, planned):
    planned = {k: np.asarray(x, np.int64) for k, x in planned.items()}
    made = self._clean(planned)
    if made is None:
      rows = planned["candidates"][planned["candidates"] != plan.NONE]
      files = np.unique(self.table.file[self.definition.record[rows]])
      _check_open(self.table.paths[k] for k in files)
      made = self._make({k: tf.constant(planned[k]) for k in _PLANNED})
      made = {k: x.numpy() for k, x in made.items()}
    return planned, made

  def stream(self, planned: Iterable[Mapping]) -> Iterator[tuple[dict, dict]]:
    """(planned, batch) of numpy arrays, in order, made ahead.

    Threads call one traced function. A `from_generator` with `map` did the same, but
    traced and optimised anew at each restore, and could hang the end of the process,
    where its Python callback waits for a lock that the exit holds.
    Args:
      planned: dicts of window, batch, epoch, rung and `candidates` [b, K]: row numbers,
        or NONE in rows without an example. Further integers are handed through.
    Returns: what was planned, and the padded keys with `row` [b], the row that was
      used; NONE where none was planned or all candidates are damaged.
    """
    pool = futures.ThreadPoolExecutor(self.workers, _THREADS)
    ahead = collections.deque()
    try:
      for p in planned:
        ahead.append(pool.submit(self._read, p))
        if len(ahead) > self.workers + 1:
          yield ahead.popleft().result()
      while ahead:
        yield ahead.popleft().result()
    finally:
      # Garbage may be collected in one of these threads, which cannot wait for itself.
      own = threading.current_thread().name.startswith(_THREADS)
      pool.shutdown(wait=not own, cancel_futures=True)

  def _count(self, row, epoch, rung):
    one = tf.data.Dataset.from_tensors(row)
    ds = one.flat_map(lambda i: self._fitting(i, epoch, rung))
    return ds.reduce(0, lambda n, _: n + 1)

  def reason(self, row: int, epoch: int, rung: int) -> str:
    """Why a row cannot be read, by reading it once more without a net."""
    try:
      found = self._probe(*(tf.constant(x, tf.int64) for x in (row, epoch, rung)))
    except tf.errors.OpError as error:
      return _message(error)
    return "it reads well now: a passing fault" if found else "the file ends before it"
