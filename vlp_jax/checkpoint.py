"""Checkpoints: asynchronous, complete or absent, checked before use, for any mesh.

  workdir/checkpoints/<step>/state/         the arrays, written by orbax
                             data.json      position of the data, open log line, ...
                             config.json    vocab.json   hashes of vocabulary, labels
                                                         and trees of video tokens
                             manifest.json  hash of each file; written last

A step counts if and only if it has a manifest. A state is any tree of arrays; it is
saved as a flat {"params/encoder/kernel": array}, so that no class of jax, flax or optax
is needed to read it. Random keys are not in it: they come from the seed.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from concurrent import futures
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from vlp_jax import manifest, resolve, restore, snapshot, workdir
from vlp_jax.errors import CheckpointError, UserError

log = logging.getLogger(__name__)
load_variables = restore.load_variables
ATTEMPTS = 3  # failed saves in a row that end a run


class Restored(NamedTuple):
  """What a checkpoint held; `state` has the structure that was asked for."""

  step: int
  state: Any
  data: dict[str, Any]
  config: dict[str, Any]
  metrics: dict[str, float]


class Checkpoints:
  """The checkpoints of a workdir. Use it in a `with`, or call `close`.

  Args:
    every: steps between saves, after which a failed one is tried again.
    keep_last, keep_best: how many of the newest, and of the best by `best_metric`
      (`best_mode` "max" or "min"), stay.
    vocab, labels, trees: of this run, with `digest` and `size`, {name: words}, {name:
      tree of video tokens}; a checkpoint of others is refused unless `override`.
    read_only: look only: nothing is cleaned up, nothing can be saved.
  """

  def __init__(
    self,
    directory: str | os.PathLike,
    *,
    every: int = 500,
    keep_last: int = 2,
    keep_best: int = 1,
    best_metric: str | None = None,
    best_mode: Literal["max", "min"] = "max",
    vocab: Any = None,
    labels: Mapping[str, Sequence[str]] | None = None,
    trees: Mapping[str, Any] | None = None,
    override: bool = False,
    read_only: bool = False,
  ):
    if keep_last < 1 or keep_best < 0 or best_mode not in ("max", "min"):
      raise UserError(
        f"checkpoint: keep_last={keep_last} must be at least 1, keep_best={keep_best} "
        f"at least 0, best_mode={best_mode!r} 'max' or 'min'."
      )
    self.root = workdir.root(directory) / "checkpoints"
    self.every, self.keep_last, self.keep_best = every, keep_last, keep_best
    self.best_metric, self.sign = best_metric, 1 if best_mode == "max" else -1
    self.identities = snapshot.identities(vocab, labels, trees)
    self.override, self.read_only = override, read_only
    self.first = jax.process_index() == 0
    self.failures, self.saved, self.blocked_s = 0, -1, 0.0
    self.running, self.pending, self.error = None, -1, None
    self.worker = futures.ThreadPoolExecutor(1, "checkpoint")
    if not read_only:
      # A thread now: making one in `save` would wait while the memory of the last step
      # is given back, some 0.1 s for a gigabyte.
      self.worker.submit(int)
    self.orbax = ocp.AsyncCheckpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=True))
    if not read_only and self.first:
      self.root.mkdir(parents=True, exist_ok=True)
      self._clean()
    workdir.from_first(0)  # nobody looks before the leftovers are gone

  def __enter__(self):
    return self

  def __exit__(self, kind, *_):
    try:
      self.close()
    except CheckpointError as error:
      if kind is None:
        raise
      log.error("%s", error)  # the error that ends the run matters more

  def steps(self) -> list[int]:
    """Committed steps in order."""
    found = restore.numbered(self.root)
    return [int(p.name) for p in found if manifest.committed(p)]

  def _clean(self):
    """Removes what killed saves left behind."""
    for path in restore.numbered(self.root):
      if not any(path.iterdir()):  # of a save killed before its first file, say
        log.warning("%s is empty; it is ignored and removed.", path)
        path.rmdir()
      elif not manifest.committed(path):
        log.warning("%s was never finished; it is removed.", path)
        path.rmtree()
    for path in self.root.glob("*.orbax-checkpoint-tmp*"):
      path.rmtree()

  def save(
    self,
    step: int,
    state: Any,
    *,
    data: Mapping[str, Any],
    config: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
  ) -> None:
    """Starts a save; blocks until the state may be donated (`blocked_s` seconds).

    An error of the save before shows here: a warning twice, and the third time a
    CheckpointError. Until a save succeeds, earlier steps stay as they are.
    """
    assert not self.read_only, "these checkpoints were opened for reading"
    self._settle()
    start = time.perf_counter()
    metrics = {k: float(v) for k, v in (metrics or {}).items()}
    if self.best_metric and metrics and self.best_metric not in metrics:
      hint = resolve.nearest(self.best_metric, metrics)
      raise UserError(f"checkpoint.best_metric: no {self.best_metric!r}.{hint}")
    if step == self.saved:
      return
    flat = {k: snapshot.array(x) for k, x in snapshot.flat(state).items()}
    about = dict(step=step, leaves=snapshot.leaves(flat), metrics=metrics)
    # Texts now, not in the thread: the loop goes on changing its dictionaries.
    files = dict(data=data, config=config, vocab=self.identities)
    files = {f"{name}.json": workdir.dumps(value) for name, value in files.items()}
    path = self.root / str(step)
    if self.first and path.exists():
      path.rmtree()  # empty, or damaged and therefore not restored
    flat = {k: x for k, x in flat.items() if x.size}  # orbax knows no empty array
    copies = snapshot.copies(flat)
    try:
      if copies is None:
        self.orbax.save(path / "state", args=ocp.args.PyTreeSave(flat))
    except (OSError, ValueError, RuntimeError) as error:
      self.error = error
    args = (path, files, about, copies)
    self.pending, self.running = step, self.worker.submit(self._finish, *args)
    self.blocked_s = time.perf_counter() - start

  def _finish(self, path, files, about, copies):
    """In a thread: waits for orbax, writes the rest, commits, tidies up."""
    if self.error is not None:  # the save did not begin
      return
    try:
      if copies is not None:
        self.orbax.save(path / "state", args=ocp.args.PyTreeSave(copies))
      self.orbax.wait_until_finished()
      if self.first:
        for name, text in files.items():
          workdir.write_text(path / name, text)
        manifest.commit(path, about)
        self._prune(about["step"])
    except Exception as error:  # shown by the next save, wait or close
      self.error = error

  def restore(self, abstract: Any, step: int | None = None) -> Restored | None:
    """The newest valid checkpoint, or the one of `step`; None if there is none.

    Args:
      abstract: tree of jax.ShapeDtypeStruct with the shardings to restore onto.
    Raises: CheckpointError when there are checkpoints but none is valid, when `step` is
      damaged, when the state is another one, or vocabulary, labels or trees are.
    """
    found, error = -1 if step is None else step, None
    if self.first:
      try:
        if step is None:
          found = restore.newest(self.root)
        else:
          manifest.verify(self.root / str(step))
      except CheckpointError as e:
        found, error = -2, e
    found = workdir.from_first(found)
    if found == -1:
      return None
    if found == -2:
      raise error or CheckpointError(f"no valid checkpoint in {self.root}.")
    path = self.root / str(found)
    body = manifest.read(path)
    if not self.override:
      restore.same_meaning(path, self.identities)
    state = restore.into(path, body, abstract)
    self.saved = found if not self.read_only else -1
    data, config = (workdir.read_json(path / f"{k}.json") for k in ("data", "config"))
    return Restored(found, state, data, config, body["metrics"])

  def _settle(self) -> Exception | None:
    """Waits for the pending save; counts and returns its error."""
    if self.running is None:
      return None
    self.running.result()
    error, step = self.error, self.pending
    self.running, self.error = None, None
    failed = error is not None
    if jax.process_count() > 1:
      failed = bool(multihost_utils.process_allgather(np.int32(failed)).any())
    if not failed:
      self.failures, self.saved = 0, step
      return None
    self.failures += 1
    path = self.root / str(step)
    if self.first and path.exists() and not manifest.committed(path):
      path.rmtree()
    text = " ".join(str(error or "on another process").split())[:500]
    log.warning(
      "checkpoint %d was not saved (failure %d of %d in a row; the next try is due "
      "within %d steps): %s",
      *(step, self.failures, ATTEMPTS, self.every, text),
    )
    if self.failures >= ATTEMPTS:
      raise CheckpointError(
        f"{ATTEMPTS} checkpoints in a row were not saved in {self.root}, the last good "
        f"one is {self.steps()[-1:] or 'none'}: {text}. Is the disk full?"
      )
    return CheckpointError(f"checkpoint {step} was not saved in {self.root}: {text}")

  def wait(self) -> None:
    """Waits for the pending save. Raises CheckpointError when it failed."""
    error = self._settle()
    if error is not None:
      raise error

  def close(self) -> None:
    """`wait`, and gives up orbax's threads."""
    try:
      self.wait()
    finally:
      self.worker.shutdown()
      self.orbax.close()

  def _prune(self, step):
    """Removes steps beyond the last and the best, and those of an abandoned future."""
    steps = self.steps()
    old = [s for s in steps if s <= step]
    keep = set(old[-self.keep_last :])
    if self.best_metric and self.keep_best:
      scores = {}
      for s in old:
        try:
          metrics = manifest.read(self.root / str(s))["metrics"]
        except CheckpointError:
          continue
        score = self.sign * metrics.get(self.best_metric, np.nan)
        if not np.isnan(score):
          scores[s] = score
      keep |= set(sorted(scores, key=lambda s: (-scores[s], s))[: self.keep_best])
    for s in set(steps) - keep:
      # Without its manifest it is a leftover, if we are killed in the middle.
      (self.root / str(s) / manifest.NAME).unlink()
      (self.root / str(s)).rmtree()
