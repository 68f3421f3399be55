"""Update rules of the optimisers, one parameter at a time; `vlp_jax.optim` runs them.

A rule is a function of hyper-parameters that returns `Rule(init, update)`:
`init(p, lead) -> {slot: array}` and `update(g, slots, p, rate, n, lead, settle) ->
(delta, slots)`, where `delta` is added to the parameter, `rate` is the learning rate,
`n` the number of this update, counted from 1, and the first `lead` axes (0 or 1) of a
parameter number the layers of a scanned stack: norms are taken layer by layer, as if
the layers were parameters of their own. `settle` takes new slots and returns those that
are kept, which the delta is made of: the old ones where the step is skipped.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp


class Rule(NamedTuple):
  """What a parameter needs to be updated; see the header of this file."""

  init: Callable[..., dict[str, jax.Array]]
  update: Callable[..., tuple[jax.Array, dict[str, jax.Array]]]


def _zeros(*names: str) -> Callable[..., dict[str, jax.Array]]:
  return lambda p, lead: {k: jnp.zeros_like(p) for k in names}


def _norm(x, lead):
  """L2 norm over all axes but the first `lead`, which stay, as size-1 axes do."""
  return jnp.sqrt(jnp.sum(x * x, axis=tuple(range(lead, x.ndim)), keepdims=True))


def _rms(x, lead):
  return jnp.sqrt(jnp.mean(x * x, axis=tuple(range(lead, x.ndim)), keepdims=True))


def _seen(b: float, n):
  """1 - b^n; as `1 - b**n` it would lose four digits in float32 for b = 0.999."""
  return -jnp.expm1(n * math.log(b)) if b else jnp.ones_like(n)


def clip_scale(norm, limit: float, *, eps: float = 0.0):
  """The factor min(1, limit / norm), and 1 where the norm is not finite.

  With an infinite norm the factor would be 0 and Inf * 0 a NaN beside zeros that look
  like gradients; left alone, Inf stays in sight of the non-finite policy of the step.
  """
  return jnp.where(
    jnp.isfinite(norm), jnp.minimum(1.0, limit / jnp.maximum(norm + eps, 1e-30)), 1.0
  )


def _moments(g, slots, b1, b2, settle):
  m = b1 * slots["m"] + (1.0 - b1) * g
  kept = settle({"m": m, "v": b2 * slots["v"] + (1.0 - b2) * g * g})
  return kept["m"], kept["v"]


def adam(
  *, b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8, wd: float = 0.0
) -> Rule:
  """Adam, bias-corrected; `wd` is an L2 penalty in the gradient. arXiv 1412.6980."""

  def update(g, slots, p, rate, n, lead, settle):
    m, v = _moments(g + wd * p, slots, b1, b2, settle)
    step = m / _seen(b1, n) / (jnp.sqrt(v / _seen(b2, n)) + eps)
    return -rate * step, {"m": m, "v": v}

  return Rule(_zeros("m", "v"), update)


def adamw(
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-8,
  wd: float = 0.0,
  decay: Literal["after", "before"] = "after",
  eps_on: Literal["corrected", "raw"] = "corrected",
) -> Rule:
  """AdamW: Adam, and apart from it a decay p -= rate * wd * p. arXiv 1711.05101.

  Args:
    decay: "after" shrinks what the Adam step left, as the code of UNITER and its kin
      does; "before" shrinks the old parameter, as in the paper (and in optax).
    eps_on: add eps to sqrt(v) "corrected" for bias, as in the paper, or to the "raw"
      one, as in the code of UNITER.
  """

  def update(g, slots, p, rate, n, lead, settle):
    m, v = _moments(g, slots, b1, b2, settle)
    root = jnp.sqrt(_seen(b2, n))
    low = jnp.sqrt(v) / root + (eps if eps_on == "corrected" else eps / root)
    delta = -rate * m / _seen(b1, n) / low
    # (p + delta) (1 - rate wd) - p, in this form: XLA would else not fuse the
    # division, but write delta out and read it back.
    kept = 1.0 - rate * wd if decay == "after" else 1.0
    return kept * delta - rate * wd * p, {"m": m, "v": v}

  return Rule(_zeros("m", "v"), update)


def bert_adam(
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-6,
  wd: float = 0.0,
  max_grad_norm: float | None = 1.0,
) -> Rule:
  """Adam of the BERT code: no bias correction, decay added to the step.

    p -= rate * (m / (sqrt(v) + eps) + wd * p)

  Args:
    max_grad_norm: clips the gradient of every parameter by itself, whatever the global
      clip did before; None for the TensorFlow version, which does not.
  """

  def update(g, slots, p, rate, n, lead, settle):
    if max_grad_norm is not None:
      g = g * clip_scale(_norm(g, lead), max_grad_norm, eps=1e-6)
    m, v = _moments(g, slots, b1, b2, settle)
    return -rate * (m / (jnp.sqrt(v) + eps) + wd * p), {"m": m, "v": v}

  return Rule(_zeros("m", "v"), update)


def sgd(*, momentum: float = 0.0, nesterov: bool = False, wd: float = 0.0) -> Rule:
  """Gradient descent; v = momentum * v + g, p -= rate * v; `wd` is an L2 penalty."""

  def update(g, slots, p, rate, n, lead, settle):
    g = g + wd * p
    if not momentum:
      return -rate * g, {}
    v = settle({"v": momentum * slots["v"] + g})["v"]
    return -rate * (g + momentum * v if nesterov else v), {"v": v}

  return Rule(_zeros("v") if momentum else _zeros(), update)


def _trust(p, u, lead, eps=0.0):
  """|p| / |u| of a parameter (or of each layer of a stack), 1 where either is 0."""
  size, step = _norm(p, lead), _norm(u, lead)
  empty = (size == 0.0) | (step == 0.0)
  return jnp.where(empty, 1.0, size / jnp.where(empty, 1.0, step + eps))


def lamb(
  *,
  b1: float = 0.9,
  b2: float = 0.999,
  eps: float = 1e-6,
  wd: float = 0.0,
  trust: bool = True,
) -> Rule:
  """LAMB: u = Adam step + wd * p, p -= rate * |p| / |u| * u. arXiv 1904.00962.

  Args:
    trust: False leaves the ratio out, for biases and norms in a group of their own.
  """

  def update(g, slots, p, rate, n, lead, settle):
    m, v = _moments(g, slots, b1, b2, settle)
    u = m / _seen(b1, n) / (jnp.sqrt(v / _seen(b2, n)) + eps) + wd * p
    return -rate * (_trust(p, u, lead) if trust else 1.0) * u, {"m": m, "v": v}

  return Rule(_zeros("m", "v"), update)


def lars(
  *,
  momentum: float = 0.9,
  nesterov: bool = False,
  trust: float | None = 1e-3,
  eps: float = 0.0,
  wd: float = 0.0,
) -> Rule:
  """LARS: u = g + wd * p, v = momentum * v + rate * trust * |p| / |u| * u, p -= v.

  The rate is inside the momentum, as in arXiv 1708.03888 and in the code of SimCLR and
  BYOL: a change of the rate acts on new gradients only.

  Args:
    trust: coefficient of the ratio; None leaves the ratio out (biases and norms).
  """

  def update(g, slots, p, rate, n, lead, settle):
    u = g + wd * p
    ratio = 1.0
    if trust is not None:
      empty = (_norm(p, lead) == 0.0) | (_norm(u, lead) == 0.0)
      ratio = jnp.where(empty, 1.0, trust * _trust(p, u, lead, eps))
    u = rate * ratio * u
    v = settle({"v": momentum * slots["v"] + u})["v"]
    return -(u + momentum * v if nesterov else v), {"v": v}

  return Rule(_zeros("v"), update)


def _factored(shape, lead, smallest):
  """The two largest axes (rows, columns) behind the first `lead`, if large enough."""
  order = sorted(range(lead, len(shape)), key=lambda i: shape[i])[-2:]
  return order if len(order) == 2 and shape[order[0]] >= smallest else None


def adafactor(
  *,
  decay_rate: float = 0.8,
  eps: float = 1e-30,
  threshold: float | None = 1.0,
  relative: bool = True,
  min_scale: float = 1e-3,
  min_factored: int = 128,
  b1: float | None = None,
  wd: float = 0.0,
) -> Rule:
  """Adafactor: second moments by rows and columns. arXiv 1804.04235, algorithms 4, 5.

  Args:
    decay_rate: b2 of update n is 1 - n^-decay_rate.
    threshold: the root mean square of a step is clipped to it; None does not.
    relative: the rate is a fraction of the parameter's root mean square, at least
      `min_scale`.
    min_factored: two axes of at least this size are needed to factor.
    b1: momentum of the steps; None keeps none.
    wd: decay p -= rate * wd * p, apart from the step.
  """

  def init(p, lead):
    slots = {} if b1 is None else {"m": jnp.zeros_like(p)}
    axes = _factored(p.shape, lead, min_factored)
    if axes is None:
      return slots | {"v": jnp.zeros_like(p)}
    return slots | {
      "row": jnp.zeros_like(
        p, shape=[n for i, n in enumerate(p.shape) if i != axes[1]]
      ),
      "col": jnp.zeros_like(
        p, shape=[n for i, n in enumerate(p.shape) if i != axes[0]]
      ),
    }

  def update(g, slots, p, rate, n, lead, settle):
    b2, new = 1.0 - n**-decay_rate, {}
    square, axes = g * g + eps, _factored(p.shape, lead, min_factored)
    if axes is None:
      new["v"] = b2 * slots["v"] + (1.0 - b2) * square
      u = g / jnp.sqrt(new["v"])
    else:
      row, col = axes
      new["row"] = b2 * slots["row"] + (1.0 - b2) * square.mean(col)
      new["col"] = b2 * slots["col"] + (1.0 - b2) * square.mean(row)
      rows, cols = jnp.expand_dims(new["row"], col), jnp.expand_dims(new["col"], row)
      u = g / jnp.sqrt(rows / rows.mean(row, keepdims=True)) / jnp.sqrt(cols)
    if threshold is not None:
      u = u / jnp.maximum(1.0, _rms(u, lead) / threshold)
    u = rate * (jnp.maximum(_rms(p, lead), min_scale) if relative else 1.0) * u
    if b1 is not None:
      new["m"] = u = b1 * slots["m"] + (1.0 - b1) * u
    return -u - rate * wd * p, settle(new)

  return Rule(init, update)


RULES = (adamw, adam, bert_adam, sgd, lamb, lars, adafactor)
