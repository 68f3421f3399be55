"""Losses and metrics of every task over an evaluation set.

The objectives of training are called with one fixed key and `train=False`, so that the
same weights always give the same figures: corruption depends on `example_id` alone.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax

from vlp_jax import batch
from vlp_jax.metrics import Mean, Result


class Evaluator:
  """Sums over the whole set first, one division at the end.

  Exact for any batch size where an objective is a sum over rows. Contrastive losses
  depend on the rows that meet in a batch: compare them at one batch size only.

  Args:
    apply: of the model. Objectives ask it for train=True; they get train=False.
    batches: a re-iterable of batches for all tasks, or {task: re-iterable}.
    objectives: {task: fn(apply, variables, batch, key) -> (terms, aux, mutable)}, with
      their keywords bound; a bare function stands for the one task "loss".
    seed: of the corruption.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping] | Mapping[str, Iterable[Mapping]],
    *,
    objectives: Mapping[str, Callable] | Callable,
    seed: int = 0,
  ):
    if callable(objectives):
      objectives = {"loss": objectives}
    if not isinstance(batches, Mapping):
      batches = dict.fromkeys(objectives, batches)
    if set(batches) != set(objectives):
      raise ValueError(
        f"batches for tasks {sorted(batches)}, objectives for {sorted(objectives)}; "
        "give both for each task."
      )
    self.batches, self.seed = batches, seed
    self.steps = {task: jax.jit(_step(apply, fn)) for task, fn in objectives.items()}

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`<task>/loss` (n: rows), then every term and metric (n: what it is a mean over).

    A term or metric keeps its name where this begins with the task's, and has the
    task's name before it otherwise. One over nothing is 0 with n = 0. A `<name>/nll`
    (the mean negative log-likelihood of a token) brings `<name>/perplexity`, its
    exponential.
    """
    key = jax.random.key(self.seed)
    for task, step in self.steps.items():
      sums, pending = _Sums(), None
      for rows in self.batches[task]:
        out = step(variables, rows, key)  # dispatched before the last one is fetched
        if pending is not None:
          sums.add(*jax.device_get(pending))
        pending = out
      if pending is None:
        raise ValueError(f"task {task} has no batch to evaluate on.")
      sums.add(*jax.device_get(pending))
      told = f"task {task}, no dropout, corruption of seed {self.seed}"
      loss = sum(coef * _value(sums.means[k]) for k, coef in sums.coef.items())
      yield f"{task}/loss", Result(float(loss), n=sums.rows, protocol=told)
      for name, mean in sums.means.items():
        own = name == task or name.startswith(f"{task}/")
        value, n = _value(mean), round(mean.weight)
        share = n and _is_share(name)
        ci = 1.96 * math.sqrt(value * (1 - value) / n) if share else math.nan
        result = Result(value, n=n, ci=ci, protocol=told)
        full = name if own else f"{task}/{name}"
        yield full, result
        if full.endswith("/nll"):
          spread = math.exp(min(value, 700.0))  # beyond it float64 overflows
          yield f"{full[:-3]}perplexity", Result(spread, n=n, protocol=told)


def _is_share(name):
  """Whether a metric is a mean of yes and no, so that its spread is known."""
  return name.rsplit("/", 1)[-1] == "accuracy"


def _step(apply, objective):
  def quiet(variables, batch, *, rng=None, train=False, method=None):
    return apply(variables, batch, train=False, method=method)

  def step(variables, rows, key):
    terms, aux, _ = objective(quiet, variables, rows, key)
    means = {k: m for k, m in aux.items() if isinstance(m, Mean)}
    real = rows["example_mask"].sum() if "example_mask" in rows else batch.rows(rows)
    return terms, means, real

  return step


class _Sums:
  """Totals and weights of terms and metrics, added up in float64."""

  def __init__(self):
    self.means, self.coef, self.rows = {}, {}, 0

  def add(self, terms, means, rows):
    self.rows += int(rows)
    self.coef |= {k: float(t.coef) for k, t in terms.items()}
    for name, m in (terms | means).items():
      mean = Mean(float(m.total), float(m.weight))
      self.means[name] = self.means.get(name, Mean(0.0, 0.0)).merge(mean)


def _value(mean):
  return mean.total / mean.weight if mean.weight else 0.0
