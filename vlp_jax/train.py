"""The one train loop: tasks, step, rounds, log, evaluation, checkpoint, preemption.

`run(config)` trains any system of this project, on any mesh. State is restored from the
run's own workdir, else `resume`, else parameters from `init_from`, else made from
scratch. All that a restart needs travels in the checkpoint: state, data position, the
open line of the log and the task schedule.
"""

import collections
import contextlib
import dataclasses
import gc
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vlp_jax import (
  ahead,
  checkpoint,
  costs,
  evaluate,
  fitting,
  monitor,
  optim,
  preemption,
  profile,
  resolve,
  sharding,
  sources,
)
from vlp_jax import (
  batch as batch_lib,
)
from vlp_jax import (
  settings as settings_lib,
)
from vlp_jax import (
  state as state_lib,
)
from vlp_jax import (
  step as step_lib,
)
from vlp_jax import (
  workdir as workdir_lib,
)
from vlp_jax.errors import Preempted
from vlp_jax.tasks import schedule as schedule_lib

IN_FLIGHT = 2  # steps dispatched before the loop looks at a result


@dataclasses.dataclass
class Outcome:
  """What a run leaves: the state, `{metric: Result}`, and the log's last lines."""

  state: state_lib.TrainState
  results: dict[str, Any]
  metrics: list[dict[str, Any]]


class Run:
  """A config made concrete: model, steps, sources. `train` is the loop."""

  def __init__(
    self,
    config: Mapping[str, Any],
    workdir: str | None = None,
    *,
    data: Any = None,
    evals: Mapping[str, Any] | None = None,
    devices: Sequence[Any] | None = None,
    profile: bool = False,
  ):
    self.config = settings_lib.plain(config)
    self.settings = s = settings_lib.load(self.config)
    settings_lib.check(s, vocab=settings_lib.stand_in(), data_given=data is not None)
    self.mesh = sharding.mesh(s.mesh, devices)
    for task in s.tasks if data is None else ():
      if s.task_input(task).get("rows"):
        sharding.check_rows(s.task_input(task)["rows"], self.mesh, s.micro)
    self.settings = s = settings_lib.load(settings_lib.with_twins(self.config))
    self.workdir, self.profile = workdir, profile
    self.vocab, self.tokeniser = settings_lib.vocabulary(s)
    inject = {"vocab": self.vocab, "vocab_size": self.vocab.size}
    self.model = resolve.model(s.model, inject=inject)
    self.apply = state_lib.make_apply(self.model, generator=s.dropout_generator)
    objectives = {t: s.objective(t, inject) for t in s.tasks}
    after = s.hook()
    tx_of = lambda p: optim.build(p, **({"total_steps": s.total_steps} | s.optim))
    given = dict(seed=s.seed, extra=s.extra(), scale=dict(s.init_scale))
    self.make, self.abstract, self.shardings, self.tx = state_lib.init(
      self.model, tx_of, self.mesh, **given
    )
    self.steps = {
      t: step_lib.build(
        objective,
        apply=self.apply,
        tx=self.tx,
        mesh=self.mesh,
        shardings=self.shardings,
        micro=s.micro,
        after_update=after,
        name=t,
      )
      for t, objective in objectives.items()
    }
    self.flops = costs.meter(self.model, objectives)
    self.weights = {t: float(v.get("weight", 1.0)) for t, v in s.tasks.items()}
    self.spans = s.spans()
    self.sources = sources.Sources(
      s, self.tokeniser, self.mesh, data=data, workdir=workdir
    )
    self.meaning = dict(vocab=self.vocab, trees=self.sources.trees)  # of ids
    if data is None:
      fitting.check(self.model, s, self.sources.trees)
    self.watch, self.key = preemption.Watch(), sharding.random_key(s.seed, self.mesh)
    self.evaluators = evaluate.build(
      s,
      self.apply,
      self.mesh,
      self.tokeniser,
      objectives=objectives,
      vocab=self.vocab,
      given=evals,
      check=self.watch.during_evaluation,
    )
    self.useful = jax.jit(
      batch_lib.useful, out_shardings=sharding.replicated(self.mesh)
    )
    self.flight = collections.deque()
    self.results, self.lines, self.line = {}, [], None
    self.rate = optim.learning_rate(dict(s.optim) | {"total_steps": s.total_steps})

  def restore(self, saved: checkpoint.Checkpoints | None):
    """(state, extra) by the restore order; `extra` is {} for a fresh start."""
    s = self.settings
    got = saved and saved.restore(self.abstract)
    if not got and s.resume:
      other = checkpoint.Checkpoints(s.resume, read_only=True, **self.meaning)
      got = other.restore(self.abstract)
    if got:
      return got.state, got.data
    state = self.make()
    if s.init_from:
      given = s.init_from, self.model, self.shardings
      state = evaluate.init_from(state, *given, **self.meaning)
    return state, {}

  def train(self) -> Outcome:
    """Runs to `total_steps` from wherever the workdir stands."""
    s, saving = self.settings, self.settings.saving
    with contextlib.ExitStack() as stack:
      saved = None
      if self.workdir is not None:
        stack.enter_context(workdir_lib.lock(self.workdir))
        workdir_lib.write_start(self.workdir, self.config)
        saved = stack.enter_context(
          checkpoint.Checkpoints(
            self.workdir, **dataclasses.asdict(saving), **self.meaning
          )
        )
      state, extra = self.restore(saved)
      start = int(state.step)
      self.log = monitor.Monitor(
        self.workdir,
        s.total_steps,
        start_step=start,
        tensorboard=s.tensorboard and self.workdir is not None,
        peak_flops=costs.peak(self.mesh, getattr(self.model, "dtype", "float32")),
      )
      stack.callback(self.log.close)
      self.window = extra.get("window", {})
      self.weights = extra.get("schedule", self.weights)
      self.sources.start(extra.get("sources"))
      stack.callback(self.sources.close)
      stop = stack.enter_context(self.watch)
      if ahead.wanted(s.compile_ahead, s.total_steps - start):
        ahead.compile_run(self, state)
      at = self.workdir if self.profile else None
      trace = profile.Trace(at, start, s.total_steps)
      stack.callback(trace.close)

      def save(state, n, wait=False):
        extra = dict(sources=self.sources.position, pending=self.line and self.line[1])
        extra |= dict(window=self.window, schedule=self.weights)
        metrics = {k: r.value for k, r in self.results.items()}
        saved.save(n, state, data=extra, config=self.config, metrics=metrics)
        if wait:
          saved.wait()

      if extra.get("pending"):  # stopped while it was evaluated
        self.line = start, extra["pending"]
        self._evaluate(state)
        self._write()
      if extra.get("pending") or start == 0:
        state = self._rounds(state, start)
      for n in range(start + 1, s.total_steps + 1):
        trace.before(n)
        state = self._advance(state, n)
        if n == start + 1:  # else what a thread that saves collects holds us for 0.1 s
          gc.freeze()
          stack.callback(gc.unfreeze)
        due = s.eval_every and n % s.eval_every == 0
        boundary = saved is not None and n % saving.every == 0
        last = n == s.total_steps
        stopped = not last and stop(n)
        if due or boundary or last or stopped:
          self._settle(state, keep=0)
        if due or last:
          try:
            self._evaluate(state)
          except Preempted:
            if saved is not None:
              save(state, n, wait=True)
            raise
        self._write()
        if boundary or last:
          state = self._rounds(state, n)
        if saved is not None and (boundary or last or stopped):
          save(state, n, wait=stopped)
        if stopped:
          raise Preempted(f"stopped at step {n}; start the same command to go on.")
      if start >= s.total_steps:  # a finished run, started again
        if saved is not None and not self.results:
          self.results = workdir_lib.read_results(self.workdir)
        if not self.results:
          self._evaluate(state)
      if self.workdir is not None:
        workdir_lib.write_results(self.workdir, self.results)
      return Outcome(state, self.results, self.lines)

  def _advance(self, state, n):
    weights = schedule_lib.open_at(self.weights, self.spans, n - 1)
    task = schedule_lib.pick(self.settings.seed, n - 1, weights)
    with self.log.waiting():
      batch = self.sources.take(task)
    state, means = self.steps[task](state, batch, self.key)
    # Copies: the counters of the state itself are donated to the next step.
    counts = jnp.stack([state.skipped, state.bad_in_row]), self.useful(batch)
    self.flight.append((n, task, batch, means, counts))
    self._settle(state, keep=IN_FLIGHT)
    return state

  def _settle(self, state, *, keep):
    """Books the steps that are done, until at most `keep` are in flight."""
    while len(self.flight) > keep:
      n, task, batch, means, counts = self.flight.popleft()
      means, ((skipped, bad), (rows, tokens)) = jax.device_get((means, counts))
      if bad >= step_lib.BAD_IN_ROW:
        raise step_lib.not_finite(self.steps[task], state, batch, self.key, n, task)
      monitor.add(self.window, task, means)
      known = self.log.peak_flops  # without it nothing is made of the FLOPs
      flops = self.flops(task, batch, int(tokens)) if known else (0.0, 0.0)
      self.log.count(n, examples=int(rows), tokens=int(tokens), flops=flops)
      if n % self.settings.log_every == 0 or n == self.settings.total_steps:
        line = monitor.means(self.window)
        rate = float(self.rate(n - int(skipped)))
        self._write()
        self.line = n, line | {"skipped": int(skipped), "learning_rate": rate}
        self.window = {}

  def _write(self):
    """The open line of the log, together with what was evaluated at its step."""
    if self.line is not None:
      n, line = self.line
      self.log.log(n, line)
      self.lines.append({"step": n} | line)
      self.line = None

  def variables(self, state) -> dict[str, Any]:
    """What is evaluated: averaged parameters where the optimizer keeps them."""
    average = optim.ema_params(state.opt_state)
    return state.variables | ({} if average is None else {"params": average})

  def _evaluate(self, state):
    self.results = evaluate.run_all(self.evaluators, self.variables(state), self.log)
    if self.line is not None:
      n, line = self.line
      values = {k: r.value for k, r in self.results.items()}
      self.line = n, line | values

  def _rounds(self, state, n):
    """Rounds of clustering and the like: (state, features, key) -> state."""
    for name, given in self.settings.rounds.items():
      if n % given["every"] == 0 and n >= given.get("first", 0):
        key = jax.random.fold_in(jax.random.fold_in(self.key, n), 1)
        state = evaluate.run_round(self, name, given, state, key)
    return state


def run(config: Mapping[str, Any], workdir: str | None = None, **given) -> Outcome:
  """Trains as `config` says; see `Run` for batches in memory and devices."""
  return Run(config, workdir, **given).train()
