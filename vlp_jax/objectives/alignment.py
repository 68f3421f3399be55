"""Steps of a task aligned with a video, in order, learnt from their order alone.

CrossTask (arXiv 1903.08225): a linear model scores the words of step names, a step's
score is the mean of its words'; the alignment is found by dynamic programming on the
loss itself, in turns with the gradient steps.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term, wide

ASSIGNMENTS = ("model", "random")


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
    cost: [T, K] float, of second t in step k; infinite where it cannot be that step.
    where: [T] bool, real seconds (a prefix); steps: [K] bool, real steps (a prefix).
    background: cost of a second that is none.
  Returns: [T, K] bool; all False without a way of finite cost (fewer seconds than
    steps, or infinite costs), or if a real cost is NaN.
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
    back, best = ways.argmin(axis=0), ways.min(axis=0)  # the first of equals
    here = jnp.where(odd, cost[step_of], background)
    no = (best == jnp.inf) | (here == jnp.inf)  # and not the NaN of inf - inf
    new = jnp.where(no, jnp.inf, best + here)
    return jnp.where(real, new, total), jnp.where(real, back, 0)

  start = jnp.where(states == 0, 0.0, jnp.inf).astype(wide(cost).dtype)
  total, back = jax.lax.scan(forward, start, (wide(cost), where))
  last = 2 * steps.sum()  # background behind the last step
  end = jnp.where(total[last] < total[last - 1], last, last - 1)

  def backward(state, row):
    back, real = row
    return jnp.where(real, state - back[state], state), state

  _, path = jax.lax.scan(backward, end, (back, where), reverse=True)
  real = where[:, None] & steps
  found = (path[:, None] == 2 * jnp.arange(k) + 1) & real
  return found & jnp.isfinite(total[end]) & ~(jnp.isnan(cost) & real).any()


def weak_steps(
  logits: jax.Array,
  assignment: jax.Array,
  constraint: jax.Array,
  *,
  penalty: float = 1e4,
  steps: jax.Array | bool = True,
) -> jax.Array:
  """[..., T]: sum_k Y_tk (penalty * C_tk - log softmax_k(O)_tk).

  Args:
    logits, assignment, constraint: [..., T, K]: O, Y and C, 1 where a step may not be.
    steps: [..., 1, K] bool, which steps there are; others have no share.
  """
  return (assignment * weak_cost(logits, constraint, penalty=penalty, steps=steps)).sum(
    -1
  )


def weak_cost(logits, constraint, *, penalty=1e4, steps=True):
  """[..., T, K]: the derivative of `weak_steps` by the assignment; 0 of no step."""
  steps = jnp.broadcast_to(steps, logits.shape)
  log_p = jax.nn.log_softmax(wide(logits), axis=-1, where=steps)
  return jnp.where(steps, penalty * constraint - jnp.where(steps, log_p, 0.0), 0.0)


def random_cost(constraint, example_id, *, penalty=1e4, draw=0):
  """[B, T, K]: uniform noise in [0, 1) plus penalty * C_tk, a function of the example.

  The cheapest alignment under it is a random one in order that breaks as few
  constraints as any can: where `penalty` exceeds K, no noise outweighs a constraint.

  Args:
    constraint: [B, T, K], 1 where a step may not be; example_id: [B]; draw: the seed.
  """
  keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(draw), example_id)
  noise = jax.vmap(lambda key: jax.random.uniform(key, constraint.shape[1:]))(keys)
  return noise + penalty * constraint


def weak(
  apply,
  variables,
  batch,
  key,
  *,
  assignment: Literal[*ASSIGNMENTS] = "model",
  penalty: float = 1e4,
  draw: int = 0,
  output: str = "step_logits",
  stream: str = "clips",
):
  """CrossTask's weak loss: mean over seconds, then over videos.

  Reads `label_constraint` [B, T, K] (1 where the narration rules a step out),
  `label_steps` [B, K] (which steps the task has), `<stream>_mask` [B, T]. The alignment
  is a constant of the gradient, and the cheapest one

    model   under the loss itself, with the present scores
    random  under `random_cost`: for the first epochs. It is the same whenever a video
            comes, as the published code draws it once, before training.

  Args:
    penalty: lambda of the paper. draw: the seed of the random alignments.
  Returns: term `steps`; metric `steps/allowed`, the share of aligned seconds that no
    constraint rules out; the model's new collections.
  """
  if assignment not in ASSIGNMENTS:
    raise ValueError(f"assignment is {assignment!r}; give one of {ASSIGNMENTS}.")
  rng = jax.random.fold_in(key, batch["example_id"][0])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  logits, where = wide(out[output]), batch[f"{stream}_mask"]
  constraint = batch["label_constraint"].astype(logits.dtype)
  steps = batch["label_steps"].astype(bool)
  cost = weak_cost(logits, constraint, penalty=penalty, steps=steps[:, None])
  guide = jax.lax.stop_gradient(cost)
  if assignment == "random":
    guide = random_cost(constraint, batch["example_id"], penalty=penalty, draw=draw)
  found = jax.vmap(lambda c, w, s: align(c, where=w, steps=s))(guide, where, steps)
  seconds = where.sum(axis=1)
  row = found.any(axis=(1, 2))
  if "example_mask" in batch:
    row &= batch["example_mask"]
  loss = jnp.where(found, cost, 0.0).sum(axis=(1, 2)) / jnp.maximum(seconds, 1)
  term = Term(*Mean.of(loss, row))
  allowed = Mean.of(constraint == 0, found & row[:, None, None])
  return {"steps": term}, {"steps/allowed": allowed}, mutable
