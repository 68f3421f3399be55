"""BYOL: predict the target network's projection of another view (arXiv 2006.07733).

With theta the online network and xi the target of `teacher`, which has no predictor:

  step k     loss of theta_k against xi_k
  update     theta_{k+1} by the optimiser
  hook       xi_{k+1} = tau_k xi_k + (1 - tau_k) theta_{k+1}  (`target`, after_update)
             tau_k = 1 - (1 - tau_0) (cos(pi k / K) + 1) / 2

as in the published code, with `after_update = dict(fn="byol:target", total_steps=K)`.
"""

import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import nce
from vlp_jax.objectives import teacher as teacher_lib
from vlp_jax.objectives import views as views_lib

_BOTH = dict(
  size=224,
  crop={},
  flip={},
  jitter=dict(brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, form="shift"),
  grey={},
)
VIEWS = (
  _BOTH | dict(blur=dict(p=1.0)),
  _BOTH | dict(blur=dict(p=0.1), solarise=dict(p=0.2)),
)


def regression(prediction: jax.Array, target: jax.Array) -> jax.Array:
  """|p / |p| - z / |z||^2 = 2 - 2 cos(p, z), one value a row [B]; none flows into z."""
  p, z = nce.unit(wide(prediction)), jax.lax.stop_gradient(nce.unit(wide(target)))
  return jnp.square(p - z).sum(-1)


def byol(
  apply,
  variables,
  batch,
  key,
  *,
  views: Mapping | Sequence = VIEWS,
  stream: views_lib.Stream = "image",
):
  """regression(p_1, z'_2) + regression(p_2, z'_1), mean over real rows.

  It reads the pixels or samples of `stream`, example_id and, if given, masks; and of
  the variables `teacher`, which `target` makes. The views go through the networks one
  after the other: BatchNorm has the statistics of one view, and the running ones move
  twice, as in the published code. Rows meet in BatchNorm only.

  Args:
    views: settings of `objectives.views`, for both or a list of two.
    stream: "image", "video" or "audio".
  Returns: term `byol`, 0..8; metric `byol/cosine`, the mean cosine of predictions and
    targets; the new statistics and `teacher`.
  """
  student, teacher = teacher_lib.split(variables, "byol:target")
  *view_keys, drop_key = jax.random.split(key, 3)
  where = views_lib.real(batch, stream)
  rng = jax.random.fold_in(drop_key, batch["example_id"][0])
  predictions, targets, mutable = [], [], {}
  for i, settings in enumerate(views_lib.pair(views)):
    seen = views_lib.make(batch, view_keys[i], settings, stream=stream)
    rngs = jax.random.split(jax.random.fold_in(rng, i))
    out, new = apply(student | mutable, seen, rng=rngs[0], train=True)
    if "prediction" not in out:
      raise ValueError("byol needs a predictor; set model.predictor.")
    mutable = mutable | new
    z, teacher = teacher_lib.forward(apply, teacher, seen, rngs[1])
    predictions.append(out["prediction"])
    targets.append(z)
  loss = regression(predictions[0], targets[1]) + regression(predictions[1], targets[0])
  aux = {"byol/cosine": Mean.of(1.0 - loss / 4.0, where)}
  term = Term(*Mean.of(loss, where))
  return {"byol": term}, aux, {**mutable, "teacher": teacher}


def decay(step: jax.Array, *, base: float, total_steps: int) -> jax.Array:
  """tau_k of the module's header: from `base` at k = 0 to 1 at k = total_steps."""
  share = jnp.clip(step / total_steps, 0.0, 1.0)
  return 1.0 - (1.0 - base) * (jnp.cos(math.pi * share) + 1.0) / 2.0


def target(state, *, total_steps: int, base: float = 0.996):
  """after_update: the target moves towards the new online network.

  Args:
    total_steps: K, of the run.
    base: tau_0: 0.996 for 1,000 epochs, 0.99 for 100 and 300.
  """
  tau = decay(state.step, base=base, total_steps=total_steps)
  teacher = teacher_lib.move(state.mutable["teacher"], state.params, tau)
  return {**state.mutable, "teacher": teacher}


def _init(variables, *, total_steps, base=0.996):
  del total_steps, base
  return {"teacher": teacher_lib.init(variables)}


target.init = _init
