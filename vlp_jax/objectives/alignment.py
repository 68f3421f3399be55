"""Steps of a task aligned with a video, in order, learnt from their order alone.

CrossTask (arXiv 1903.08225): a linear model scores the words of step names, a step's
score is the mean of its words'; the alignment is found by dynamic programming on the
loss itself, in turns with the gradient steps.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.metrics import Mean, Term, wide


def components(tasks: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
  """Task -> [M, K] shares of M words, of all tasks together, in its K steps.

  The columns sum to 1: step scores are word scores [T, M] times this. Words are in
  alphabetical order.
  """
  words = sorted({w for steps in tasks.values() for s in steps for w in s.split()})
  place = {w: i for i, w in enumerate(words)}
  out = {}
  for task, steps in tasks.items():
    out[task] = np.zeros((len(words), len(steps)), np.float32)
    for k, step in enumerate(steps):
      own = sorted(set(step.split()))
      out[task][[place[w] for w in own], k] = 1 / len(own)
  return out


def align(
  cost: jax.Array,
  *,
  where: jax.Array | None = None,
  steps: jax.Array | None = None,
  exactly_one: bool = True,
  background: float = 0.0,
) -> jax.Array:
  """The cheapest order-preserving assignment of seconds to steps.

  Steps come in order, each once (a second with exactly_one, else a run of seconds),
  with background before, between and behind. Among equals a state is kept rather than
  entered, and the last second is a step rather than background, as in the published
  code (which assigns nothing where T = K and the last step costs more than background;
  here the one way that there is).

  Args:
    cost: [T, K] float, of second t in step k.
    where: [T] bool, real seconds (a prefix); steps: [K] bool, real steps (a prefix).
    background: cost of a second that is none.
  Returns: [T, K] bool; all False where there are fewer seconds than steps.
  """
  num, k = cost.shape
  where = jnp.ones(num, bool) if where is None else where
  steps = jnp.ones(k, bool) if steps is None else steps
  states = jnp.arange(2 * k + 1)  # odd ones are steps, even ones background
  odd = states % 2 == 1
  step_of = jnp.minimum(states // 2, k - 1)

  def forward(total, row):
    cost, real = row
    ways = jnp.stack(
      [
        jnp.where(odd & exactly_one, jnp.inf, total),
        jnp.where(states >= 1, jnp.roll(total, 1), jnp.inf),
        jnp.where(odd & (states >= 3), jnp.roll(total, 2), jnp.inf),
      ]
    )
    back = ways.argmin(axis=0)  # the first of equals
    here = jnp.where(odd, cost[step_of], background)
    new = ways.min(axis=0) + here
    return jnp.where(real, new, total), jnp.where(real, back, 0)

  start = jnp.where(states == 0, 0.0, jnp.inf).astype(wide(cost).dtype)
  total, back = jax.lax.scan(forward, start, (wide(cost), where))
  last = 2 * steps.sum()  # background behind the last step
  end = jnp.where(total[last] < total[last - 1], last, last - 1)

  def backward(state, row):
    back, real = row
    return jnp.where(real, state - back[state], state), state

  _, path = jax.lax.scan(backward, end, (back, where), reverse=True)
  found = (path[:, None] == 2 * jnp.arange(k) + 1) & where[:, None] & steps
  return found & jnp.isfinite(total[end])


def weak_steps(
  logits: jax.Array,
  assignment: jax.Array,
  constraint: jax.Array,
  *,
  weight: float = 1e4,
  steps: jax.Array | bool = True,
) -> jax.Array:
  """[..., T]: sum_k Y_tk (weight * C_tk - log softmax_k(O)_tk).

  Args:
    logits, assignment, constraint: [..., T, K]: O, Y and C, 1 where a step may not be.
    steps: [..., 1, K] bool, which steps there are; others have no share.
  """
  return (assignment * weak_cost(logits, constraint, weight=weight, steps=steps)).sum(
    -1
  )


def weak_cost(logits, constraint, *, weight=1e4, steps=True):
  """[..., T, K]: the derivative of `weak_steps` by the assignment; 0 of no step."""
  steps = jnp.broadcast_to(steps, logits.shape)
  log_p = jax.nn.log_softmax(wide(logits), axis=-1, where=steps)
  return jnp.where(steps, weight * constraint - jnp.where(steps, log_p, 0.0), 0.0)


def weak(
  apply,
  variables,
  batch,
  key,
  *,
  weight: float = 1e4,
  output: str = "step_logits",
  stream: str = "clips",
):
  """CrossTask's weak loss: mean over seconds, then over videos.

  Reads `label_constraint` [B, T, K] (1 where the narration rules a step out),
  `label_steps` [B, K] (which steps the task has), `<stream>_mask` [B, T], and
  `label_assignment` [B, T, K] for a given alignment (the random ones of the first
  epochs); without it the alignment is the cheapest under the present scores, a constant
  of the gradient.

  Returns: term `steps`; metric `steps/allowed`, the share of aligned seconds that no
    constraint rules out; the model's new collections.
  """
  rng = jax.random.fold_in(key, batch["example_id"][0])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  logits, where = wide(out[output]), batch[f"{stream}_mask"]
  constraint = batch["label_constraint"].astype(logits.dtype)
  steps = batch["label_steps"].astype(bool)
  cost = weak_cost(logits, constraint, weight=weight, steps=steps[:, None])
  if "label_assignment" in batch:
    found = batch["label_assignment"].astype(bool)
  else:
    fixed = jax.lax.stop_gradient(cost)
    found = jax.vmap(lambda c, w, s: align(c, where=w, steps=s))(fixed, where, steps)
  found &= where[..., None] & steps[:, None]
  seconds = where.sum(axis=1)
  row = found.any(axis=(1, 2))
  if "example_mask" in batch:
    row &= batch["example_mask"]
  loss = jnp.where(found, cost, 0.0).sum(axis=(1, 2)) / jnp.maximum(seconds, 1)
  term = Term(*Mean.of(loss, row))
  allowed = Mean.of(constraint == 0, found & row[:, None, None])
  return {"steps": term}, {"steps/allowed": allowed}, mutable
