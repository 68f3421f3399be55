"""Where the loop's batches come from: pipelines by name, or batches in memory.

Every source hands out (position, batch): the position of the last batch that the *loop*
took, not of the thread that runs ahead.
"""

import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from vlp_jax import cluster_tree, sharding
from vlp_jax.errors import UserError
from vlp_jax.settings import Settings


class Cycle:
  """Batches in memory, over and over, with a position that can be saved."""

  def __init__(self, batches: Iterable[Mapping[str, np.ndarray]]):
    self.batches, self.index = list(batches), 0
    if not self.batches:
      raise UserError("no batches were given.")

  def __iter__(self):
    return self

  def __next__(self):
    batch = self.batches[self.index % len(self.batches)]
    self.index += 1
    return batch

  def shapes(self) -> list[dict[str, tuple]]:
    """(shape, dtype) by key of each batch."""
    return [{k: (np.shape(x), x.dtype) for k, x in b.items()} for b in self.batches]

  def get_state(self) -> dict[str, int]:
    return {"index": self.index}

  def set_state(self, state: Mapping[str, int]) -> None:
    self.index = int(state["index"])


class Sources:
  """One source per distinct input; tasks that read the same input share it.

  Args:
    settings: of the run.
    tokeniser: from `settings.vocabulary`.
    mesh: batches come out as global arrays on it.
    data: batches in memory instead: an iterator with get_state/set_state, a list of
      batches, or a mapping of them by task.
    workdir: damaged records are named in its `bad_records.jsonl`.
    prefetch: a thread keeps two batches on the device ahead of the loop.
  Attributes:
    trees: of video tokens that the run's inputs name; see `trees`.
  """

  def __init__(
    self,
    settings: Settings,
    tokeniser: Any,
    mesh: jax.sharding.Mesh,
    *,
    data: Any = None,
    workdir: str | None = None,
    prefetch: bool = True,
  ):
    self.mesh, self.put = mesh, lambda batch: sharding.put(batch, mesh)
    self.key_of, self.iterators = {}, {}
    at = {} if workdir is None else {"bad_records": f"{workdir}/bad_records.jsonl"}
    at["multiple"] = sharding.batch_shards(mesh) * settings.micro
    for task in settings.tasks:
      if data is None:
        given = settings.task_input(task)
        key = json.dumps(given, sort_keys=True, default=str)
        make = lambda given=at | given: build(given, tokeniser, seed=settings.seed)
      else:
        own = data[task] if isinstance(data, Mapping) else data
        key = task if isinstance(data, Mapping) else "data"
        make = lambda own=own: own if hasattr(own, "get_state") else Cycle(own)
      self.key_of[task] = key
      if key not in self.iterators:
        self.iterators[key] = make()
    self.trees = trees(settings) if data is None else {}
    self.prefetch = prefetch
    self.position = {k: it.get_state() for k, it in self.iterators.items()}
    self.running = {}

  def start(self, position: Mapping[str, Any] | None = None) -> None:
    """Begins to read, at a saved position if given."""
    for key, state in (position or {}).items():
      if key not in self.iterators:
        raise UserError(f"the saved data position is of other inputs: {key[:200]}")
      self.iterators[key].set_state(state)
      self.position[key] = state
    if self.prefetch:
      thread = importlib.import_module("data_pipelines.prefetch").Prefetch
      self.running = {k: thread(it, self.put) for k, it in self.iterators.items()}

  def take(self, task: str) -> dict[str, jax.Array]:
    """The next batch of a task, on the device."""
    key = self.key_of[task]
    if self.prefetch:
      batch = next(self.running[key])
      self.position[key] = self.running[key].get_state()
    else:
      batch = self.put(next(self.iterators[key]))
      self.position[key] = self.iterators[key].get_state()
    return batch

  def shapes(self, task: str) -> list[dict[str, jax.ShapeDtypeStruct]]:
    """Global batches that may come, with shardings; [] where the source cannot say.

    Each kind comes once.
    """
    source = self.iterators[self.key_of[task]]
    told = source.shapes() if hasattr(source, "shapes") else []
    kinds = {repr(sorted(one.items())): one for one in told}
    return [sharding.shaped(one, self.mesh) for one in kinds.values()]

  def close(self) -> None:
    for thread in self.running.values():
      thread.close()


def trees(settings: Any) -> dict[str, cluster_tree.Tree]:
  """The trees of video tokens that inputs of a run name (`tree=`), by a short name.

  A model knows the tokens of one tree: {"tree": ...}; "tree_2" and so on are others.
  """
  inputs = [settings.task_input(task) for task in settings.tasks]
  for entry in settings.evals.values():
    mine = (v for v in entry.values() if isinstance(v, Mapping))
    inputs += [dict(settings.input) | dict(v) for v in mine]
  paths = dict.fromkeys(str(i["tree"]) for i in inputs if i.get("tree"))
  found = {tree.digest: tree for tree in map(cluster_tree.load, paths)}
  name = lambda k: f"tree_{k}" if k > 1 else "tree"
  return {name(k): tree for k, tree in enumerate(found.values(), 1)}


def build(given: Mapping[str, Any], tokeniser, *, seed: int = 0) -> Iterator:
  """This host's rows of the training batches of an input, by name."""
  pipelines = importlib.import_module("data_pipelines.batches")
  return pipelines.build(
    given,
    vocab=tokeniser,
    seed=seed,
    host=jax.process_index(),
    num_hosts=jax.process_count(),
  )


class Placed:
  """A re-iterable of numpy batches whose iteration gives global device arrays."""

  def __init__(self, batches: Iterable[Mapping], put: Callable):
    self.batches, self.put = batches, put

  def __iter__(self):
    return (self.put(b) for b in self.batches)


def evaluation(
  given: Mapping[str, Any],
  tokeniser,
  mesh,
  *,
  check: Callable[[], None] = lambda: None,
) -> Placed:
  """Every example of an input once, in order, as global arrays.

  `check` is called before each batch; an interrupted run raises in it.
  """
  pipelines = importlib.import_module("data_pipelines.batches")
  batches = pipelines.evaluation(
    given, vocab=tokeniser, host=jax.process_index(), num_hosts=jax.process_count()
  )

  def put(batch):
    check()
    return sharding.put(batch, mesh)

  return Placed(batches, put)
