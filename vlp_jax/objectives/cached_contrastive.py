"""Contrastive objectives in microbatches: the whole batch's negatives in less memory.

`"cached_contrastive:mil_nce"` is `"contrastive:mil_nce"` with micro > 1 allowed. Two
passes (GradCache, arXiv 2101.06983): all embeddings, without gradient, microbatch by
microbatch; the loss of the full batch and its gradient with respect to them; then each
microbatch again, with that gradient sent back through the network. The result is that
of the whole batch at once, except that BatchNorm takes its statistics from each
microbatch, and dropout, alike in both passes, draws anew for each.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vlp_jax import batch as batch_lib
from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import contrastive

CACHED = "cached_"  # before the batch keys that hold gradients in the second pass


def _embeddings(out):
  """What losses read from a model: `<stream>_embed` [B, ...] and scalars `logit_*`."""
  return {k: x for k, x in out.items() if k.endswith("_embed") or k[:6] == "logit_"}


def value_and_grad(apply, params, rest, batch, key, *, objective, pieces, **hyper):
  """Gradients, new mutable, loss and means; as `step.value_and_grad`.

  Args:
    objective: of `objectives.contrastive`; `hyper` are its keywords.
    pieces: `step.Pieces`, how the batch is split.
  """
  objective = functools.partial(objective, **hyper)
  if pieces.micro == 1:
    return pieces.value_and_grad(apply, params, rest, batch, key, objective=objective)

  def encode(rest, rows):
    variables = rest | {"params": params}
    out, new = contrastive.embed(apply, variables, rows, key)
    return _embeddings(out), rest | new

  def compare(embeddings):
    known = lambda *args, **given: (embeddings, {})
    terms, aux, _ = objective(known, rest | {"params": params}, batch, key)
    means = {k: Mean(t.total, t.weight) for k, t in terms.items()}
    means |= {k: m for k, m in aux.items() if isinstance(m, Mean)}
    return sum(t.value for t in terms.values()), means

  embeddings = pieces.forward(encode, rest, batch)
  grad_fn = jax.value_and_grad(compare, has_aux=True)
  (loss, means), slopes = grad_fn(embeddings)
  total = batch_lib.rows(batch)
  scalars = {k: g for k, g in slopes.items() if g.ndim == 0}
  rows = {f"{CACHED}{k}": g for k, g in slopes.items() if g.ndim}

  def send_back(apply, variables, rows, key):
    """Linear in the embeddings, with the wanted gradient; a sum over rows."""
    out, mutable = contrastive.embed(apply, variables, rows, key)
    share = batch_lib.rows(rows) / total
    parts = [share * wide(out[k]) * g for k, g in scalars.items()]
    for k, x in _embeddings(out).items():
      if k not in scalars:
        parts.append((wide(x) * wide(rows[CACHED + k])).sum())
    # The weights of all microbatches are `total`, which the coefficient takes away.
    weight = jnp.full((), batch_lib.rows(rows), parts[0].dtype)
    return {"slope": Term(sum(parts), weight, coef=float(total))}, {}, mutable

  grads, rest, *_ = pieces.value_and_grad(
    apply, params, rest, batch | rows, key, objective=send_back
  )
  return grads, rest, loss, means


def _cached(objective: Callable) -> Callable:
  @functools.wraps(objective)
  def fn(apply, variables, batch, key, **hyper):
    return objective(apply, variables, batch, key, **hyper)

  fn.value_and_grad = functools.partial(value_and_grad, objective=objective)
  return fn


def twin(objective: Callable) -> str:
  """The name in a config of this objective in microbatches; "" if there is none."""
  while isinstance(objective, functools.partial):
    objective = objective.func
  for name, fn in globals().items():
    if getattr(fn, "__wrapped__", None) is objective:
      return f"cached_contrastive:{name}"
  return ""


mil_nce = _cached(contrastive.mil_nce)
symmetric = _cached(contrastive.symmetric)
ego = _cached(contrastive.ego)
sigmoid = _cached(contrastive.sigmoid)
nt_xent = _cached(contrastive.nt_xent)
