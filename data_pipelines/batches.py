"""Batches of a task: the plan says which examples, `read` fetches them.

`build` gives the endless training batches of one host, `evaluation` every example
exactly once. Both take the `input` of a config:

  dict(task="text_regions", dir=..., split="train", tokens=10_240)  # a ladder
  dict(task="text_regions", dir=..., split="train", tokens=10_240, pack=256)  # packed
  dict(task="narrated_clips", dir=..., split="train", rows=64)  # one shape
  dict(mixture={"a": dict(task=..., rate=3), "b": dict(task=..., rate=1)})

With `rows` the remainder of an epoch is dropped (other examples each epoch), so that a
contrastive batch is always full; with `tokens`, and in packed rows, every example comes
once an epoch. In evaluation nothing is packed.
"""

import hashlib
import inspect
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_pipelines import index, mixture, packing, plan, quarantine, shapes
from vlp_jax import batch as contract
from vlp_jax import declared, resolve
from vlp_jax.errors import CheckpointError, DataBudgetError, UserError

CANDIDATES = 4  # the planned example and three spares
_HARNESS = ("table", "info", "vocab", "train")  # what this file gives to a task


class _Source:
  """A task over a split, opened: table, definition, rungs, reader."""

  def __init__(
    self,
    dir: str,
    split: str,
    task: str,
    *,
    rows: int | None = None,
    tokens: int | None = None,
    max_rungs: int = 8,
    pack: int | None = None,
    max_segments: int | None = None,
    multiple: int = 1,
    workers: int = 2,
    bad_records: str | None = None,
    budget: int | None = None,
  ):
    if (rows is None) == (tokens is None):
      raise UserError("input: set either rows (one shape) or tokens (a ladder).")
    self.rows, self.tokens, self.multiple = rows, tokens, multiple
    self.max_rungs, self.pack, self.max_segments = max_rungs, pack, max_segments
    self.table, self.info = index.load(dir, split), index.read_info(dir)
    self.place, self.workers = resolve.module("data_pipelines.tasks", task), workers
    self.quarantine = quarantine.Quarantine(self.table, budget=budget, file=bad_records)

  def open(self, keywords, *, vocab, train, seed=0):
    from data_pipelines import read  # ten seconds of TensorFlow: after cheap checks

    define = resolve.bind(
      self.place.define, keywords, inject={"vocab": vocab}, skip=_HARNESS, what="input"
    )
    self.definition = define(self.table, self.info, vocab=vocab, train=train)
    if not len(self.definition.record):
      raise UserError(
        f"{self.table.dir} ({self.table.split}): no example of {len(self.table)} "
        f"passes the filters of task {self.place.__name__.rsplit('.', 1)[1]!r}."
      )
    lengths = self.definition.lengths
    self.lengths = np.zeros(len(self.definition.record), int)
    self.lengths = self.lengths if lengths is None else np.asarray(lengths)
    self.packed = train and self.pack is not None
    self.rungs = self._packed_rungs() if self.packed else self._rungs(train)
    # Packed or not, the reader pads single examples.
    self.read_as = (plan.Rung(self.longest, 0),) if self.packed else self.rungs
    self.reader = read.Reader(
      self.table, self.definition, self.read_as, seed=seed, workers=self.workers
    )
    return self

  @property
  def longest(self) -> int:
    return -(-int(self.lengths.max()) // 8) * 8

  def _packed_rungs(self) -> Sequence[plan.Rung]:
    streams = self.definition.streams
    if streams is None:
      name = self.place.__name__.rsplit(".", 1)[1]
      raise UserError(
        f"input.pack: task {name!r} refuses packing; its rows are of one shape."
      )
    self.sizes = np.stack([*streams.values()], axis=1)
    widths = packing.widths(self.sizes, self.pack)
    self.widths = dict(zip(streams, widths, strict=True))
    if self.max_segments is None:
      self.max_segments = packing.segments(self.sizes, self.pack)
    rows, unit = self.rows, self.multiple
    if self.tokens is not None:
      unit = math.lcm(8, unit)
      rows = self.tokens // self.pack // unit * unit
    if rows < 1 or rows % unit or self.max_segments < 1:
      raise UserError(
        f"input: pack={self.pack} with rows={self.rows}, tokens={self.tokens}, "
        f"max_segments={self.max_segments} gives {rows} rows; they must be a positive "
        f"multiple of {unit}, of at least one segment."
      )
    return (plan.Rung(self.pack, rows),)

  def order(self, seed: int) -> "plan.Plan | plan.Packed":
    """All batches of all windows."""
    if not self.packed:
      return plan.Plan(self.lengths, self.rungs, seed, full=self.tokens is None)
    ((length, rows),) = self.rungs
    widths = tuple(self.widths.values())
    return plan.Packed(self.sizes, widths, length, rows, self.max_segments, seed)

  def _rungs(self, train) -> Sequence[plan.Rung]:
    if self.tokens is not None and self.definition.lengths is None:
      raise UserError("input.tokens needs examples of many lengths; set input.rows.")
    if self.tokens is not None:
      sizes = dict(multiple=self.multiple, max_rungs=self.max_rungs)
      rungs = plan.ladder(self.lengths, self.tokens, **sizes)
      return rungs if train else rungs[-1:]
    if self.rows < 1 or self.rows % self.multiple:
      near = max(round(self.rows / self.multiple), 1) * self.multiple
      raise UserError(
        f"input.rows={self.rows} is not divisible by {self.multiple} data shards. "
        f"The nearest size is {near}."
      )
    return (plan.Rung(self.longest, self.rows),)

  def slice(self, host: int, num_hosts: int) -> None:
    """Checks that every batch divides by the hosts."""
    rows, self.num_hosts = math.gcd(*(r.rows for r in self.rungs)), num_hosts
    if not 0 <= host < num_hosts or rows % num_hosts:
      raise UserError(
        f"host {host} of {num_hosts}: batches of {[r.rows for r in self.rungs]} rows "
        "do not divide by the hosts."
      )

  def fixed(self, seed: int) -> dict:
    """What a saved position must agree in."""
    shape = (plan.VERSION, self.rungs, self.tokens is None)
    arrays = [self.definition.record, self.definition.sub, self.lengths]
    if self.packed:
      shape += (self.widths, self.max_segments)
      arrays.append(self.sizes)
    digest = hashlib.sha256(repr(shape).encode())
    for x in arrays:
      digest.update(np.asarray(x, "<i8").tobytes())
    digest.update(self.definition.digest.encode())
    order = f"{plan.VERSION}-{digest.hexdigest()[:16]}"
    return {"seed": seed, "plan": order, "data": self.table.fingerprint}

  def finish(self, planned: Mapping, made: dict) -> dict[str, np.ndarray]:
    """The batch of the contract; damaged records go to quarantine."""
    rung, rows = int(planned["rung"]), made["row"]
    for used, candidates in zip(rows, planned["candidates"], strict=True):
      tried = candidates[candidates != plan.NONE]
      lost = tried if used == plan.NONE else tried[: int((tried == used).argmax())]
      for row in lost:
        record = int(self.definition.record[row])
        if record not in self.quarantine.bad:
          reason = self.reader.reason(int(row), int(planned["epoch"]), rung)
          self.quarantine.add(record, reason)
      if len(lost) == CANDIDATES:
        raise DataBudgetError(
          f"{self.table.dir}: {CANDIDATES} examples in a row are damaged, the last: "
          f"{self.quarantine.bad[record]}. Run data_pipelines.validate on it."
        )
    made["example_mask"] = rows != plan.NONE
    out = self.definition.finish(made, self.read_as[rung].length)
    if self.packed:
      out = self._pack(planned, rows, out)
    contract.check(out)
    return out

  def _pack(self, planned, used, out):
    out.pop("fuse_index", None)  # of single examples
    masks = [out[f"{stream}_mask"] for stream in self.widths]
    room = self.sizes[planned["candidates"][:, 0]]  # [n, k]
    # A record that could not be read when lengths were taken was counted as short.
    fits = (np.stack([m.sum(1) for m in masks], axis=1) <= room).all(axis=1)
    for row in used[out["example_mask"] & ~fits]:
      record = int(self.definition.record[row])
      self.quarantine.add(record, "it is longer than when its length was taken")
    out["example_mask"] &= fits
    for mask in masks:
      mask &= out["example_mask"][:, None]
    return packing.pack(
      out,
      planned["slots"],
      rows=int(planned["rows"]),
      segments=self.max_segments,
      length=self.pack,
      streams=self.widths,
      fill=self.definition.fill,
    )


def _unpacked(table):
  """Examples of packed rows [b, S, K] one by one, and where they belong."""
  flat = table.reshape(-1, table.shape[-1])
  slots = np.flatnonzero(flat[:, 0] != plan.NONE)
  if not len(slots):  # a host without an example has one that is none
    slots = np.zeros(1, int)
  return {"candidates": flat[slots], "slots": slots, "rows": len(table)}


def _planned(order, host, num_hosts, window, batch):
  """What the reader is to read, ahead of the loop.

  No method: a stream that knows its `Batches` would be freed by the garbage collector
  alone, at any time and in any thread.
  """
  while True:
    epoch, batches = order.window(window)
    for k in range(batch, len(batches)):
      rung, ids = batches[k]
      table = order.candidates(window, k, rung, ids, CANDIDATES)
      at = {"window": window, "batch": k, "epoch": epoch, "rung": rung}
      mine = np.split(table, num_hosts)[host]
      yield at | (_unpacked(mine) if mine.ndim == 3 else {"candidates": mine})
    window, batch = window + 1, 0


class Batches:
  """The rows of one host of an endless sequence of batches.

  `next` gives numpy arrays by the contract of `vlp_jax.batch`; `get_state` is the
  position behind the last batch taken: window, batch, seed, plan and data. It fits any
  number of hosts.

  Attributes:
    num_examples: N after filters.
    rungs: ((length, rows of the global batch), ...); length 0 if all are of one shape.
    bad: record -> where and why, of what was lost so far.
  """

  def __init__(self, source: _Source, *, seed: int, host: int, num_hosts: int):
    self._source, self._host, self._num_hosts = source, host, num_hosts
    self._plan, self._fixed = source.order(seed), source.fixed(seed)
    self._state = {"window": 0, "batch": 0, **self._fixed}
    self._stream = None
    self.num_examples, self.rungs = len(source.lengths), source.rungs
    self.bad = source.quarantine.bad

  def __iter__(self) -> "Batches":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    if self._stream is None:
      at = self._state["window"], self._state["batch"]
      planned = _planned(self._plan, self._host, self._num_hosts, *at)
      self._stream = self._source.reader.stream(planned)
    planned, made = next(self._stream)
    batch = self._source.finish(planned, made)
    at = {"window": int(planned["window"]), "batch": int(planned["batch"]) + 1}
    self._state = {**at, **self._fixed}
    return batch

  def shapes(self) -> list[shapes.Shapes]:
    """Of every batch that may come, this host's rows; nothing is read."""
    return shapes.of(self._source)

  def get_state(self) -> dict:
    """JSON-able, under 1 kB."""
    return dict(self._state)

  def set_state(self, state: Mapping) -> None:
    """Goes on behind the batch of that state.

    Raises: CheckpointError if seed, plan or data differ.
    """
    if set(state) != set(self._state):
      raise CheckpointError(
        f"the data position has keys {sorted(state)}; expected {sorted(self._state)}."
      )
    hint = {
      "seed": "set the seed of the checkpoint",
      "plan": "rows or tokens, filters or vocabulary changed",
      "data": "the shards changed; restore them or start anew",
    }
    for key, value in self._fixed.items():
      if state[key] != value:
        raise CheckpointError(
          f"the data position of the checkpoint has {key} {state[key]!r}, the input "
          f"has {value!r}: {hint[key]}."
        )
    self._state, self._stream = dict(state), None


class Evaluation:
  """Every example exactly once, in order; each `iter` starts again.

  The last batch is filled with rows of `example_mask` False; so is a damaged record,
  which is reported like in training.
  """

  def __init__(self, source: _Source, *, host: int, num_hosts: int):
    self._source, self._host, self._num_hosts = source, host, num_hosts
    self.num_examples, self.rungs = len(source.lengths), source.rungs
    self.bad = source.quarantine.bad

  def __len__(self) -> int:
    return -(-self.num_examples // self.rungs[0].rows)

  def _planned(self):
    rows = self.rungs[0].rows
    for k in range(len(self)):
      ids = np.arange(k * rows, (k + 1) * rows)
      ids[ids >= self.num_examples] = plan.NONE
      mine = np.split(ids[:, None], self._num_hosts)[self._host]
      yield {"window": 0, "batch": k, "epoch": 0, "rung": 0, "candidates": mine}

  def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
    for planned, made in self._source.reader.stream(self._planned()):
      yield self._source.finish(planned, made)


def check(input: Mapping, what: str = "input") -> None:
  """Raises UserError for a keyword that neither this file nor the task knows.

  The task's file is read, not imported: nothing of TensorFlow is.
  """
  if input.get(mixture.KEY):
    for name, (member, _) in mixture.members(input, what).items():
      check(member, f"{what}.{mixture.KEY}.{name}")
    return
  given = {k: v for k, v in input.items() if k != mixture.KEY}
  own = inspect.signature(_Source).parameters
  mine = {k: given.pop(k) for k in list(given) if k in own}
  resolve.bind(_Source, mine, what=what)
  define = declared.function("data_pipelines.tasks", mine["task"], "define")
  known = set(inspect.signature(define).parameters) - set(_HARNESS)
  for key in given:
    if key not in known:
      hint = resolve.nearest(key, known | set(own))
      raise UserError(f"{what}: unknown key {key!r}.{hint}")
  resolve.bind(define, given, skip=_HARNESS, what=what)


def _open(input, *, vocab, train, seed, host, num_hosts):
  given = {k: tuple(v) if isinstance(v, list) else v for k, v in dict(input).items()}
  given.pop(mixture.KEY, None)
  check(given)
  own = inspect.signature(_Source).parameters
  mine = {k: given.pop(k) for k in list(given) if k in own}
  source = resolve.bind(_Source, mine, what="input")()
  source.open(given, vocab=vocab, train=train, seed=seed)
  source.slice(host, num_hosts)
  return source


def build(
  input: Mapping, *, vocab=None, seed: int = 0, host: int = 0, num_hosts: int = 1
) -> "Batches | mixture.Mixture":
  """Training batches.

  Args:
    input: task, dir, split; rows or tokens; optional max_rungs of the ladder (each is
      a compile of every task's step: keep the product at 16), pack (places of a row
      that holds several examples) and max_segments (of these; by default twice the
      mean), multiple (data shards, rows are a multiple of it), workers, bad_records (a
      file to append to), budget (of damaged records); and the keywords of the task's
      `define`. Or `mixture`: see `data_pipelines.mixture`.
    vocab: of `data_pipelines.vocabularies`; None for tasks without text.
  Raises: UserError on unknown keys, missing data, too few examples; while running
    DataBudgetError when more records are damaged than the budget allows.
  """
  where = {"host": host, "num_hosts": num_hosts}
  if input.get(mixture.KEY):
    check(input)
    make = lambda given: build(given, vocab=vocab, seed=seed, **where)
    return mixture.build(input, make)
  source = _open(input, vocab=vocab, train=True, seed=seed, **where)
  return Batches(source, seed=seed, **where)


def evaluation(
  input: Mapping, *, vocab=None, host: int = 0, num_hosts: int = 1
) -> Evaluation:
  """Evaluation batches; `input` as in `build`, all of the shape of the longest rung.

  Nothing is packed, and a mixture is refused: its members are evaluated one by one.
  """
  if input.get(mixture.KEY):
    raise UserError(
      "input.mixture is for training. Evaluate its members one by one: mixture=None "
      "and the dir of one."
    )
  source = _open(
    input, vocab=vocab, train=False, seed=0, host=host, num_hosts=num_hosts
  )
  return Evaluation(source, host=host, num_hosts=num_hosts)
