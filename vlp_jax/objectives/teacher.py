"""A slowly moving copy of the model: key encoders and targets (MoCo, BYOL).

The copy lives in the collection `teacher` of the state's mutable part, as {"params",
"batch_stats", ...}. An `after_update` moves its parameters after each step towards the
new ones of the student:

    teacher_t = m teacher_{t-1} + (1 - m) student_t

The next step reads teacher_t. MoCo's code moves the key encoder at the beginning of a
step instead, towards the same parameters, so that only its first step is another one:
there the teacher equals the student, and stays. A step whose loss is not finite moves
nothing. Running statistics of BatchNorm are the teacher's own, from its own batches, as
in both codes. No gradient flows into it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from vlp_jax.errors import UserError

OWN = ("teacher", "queue")  # collections that are no variables of the model


def init(
  variables: Mapping[str, Any], leave_out: Sequence[str] = ("predict_head",)
) -> dict[str, Any]:
  """The teacher of a fresh model: a copy of all collections.

  Args:
    leave_out: modules at the top of the model that the teacher does not have.
  """
  # A copy: two leaves of one state must not share a donated buffer.
  copy = lambda tree: jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
  keep = lambda tree: {k: copy(v) for k, v in tree.items() if k not in leave_out}
  return {name: keep(tree) for name, tree in variables.items() if name not in OWN}


def move(teacher: Mapping[str, Any], params: Any, decay: float | jax.Array):
  """The teacher with parameters m t + (1 - m) s, as t + (1 - m) (s - t)."""
  student = {k: params[k] for k in teacher["params"]}
  step = lambda t, s: t + ((1.0 - decay) * (s - t)).astype(t.dtype)
  return {**teacher, "params": jax.tree.map(step, teacher["params"], student)}


def split(variables: Mapping[str, Any], fn: str) -> tuple[dict, dict]:
  """(student's variables, teacher's); `fn` is named where there is no teacher."""
  if "teacher" not in variables:
    raise UserError(
      f"the state has no teacher; set config.after_update = dict(fn={fn!r}, ...)."
    )
  student = {k: v for k, v in variables.items() if k not in OWN}
  return student, variables["teacher"]


def forward(apply, teacher: Mapping[str, Any], batch, rng) -> tuple[jax.Array, dict]:
  """(projection [B, D] without gradient, the teacher with its new statistics).

  In training mode: the statistics are those of the batch.
  """
  teacher = jax.lax.stop_gradient(teacher)
  out, new = apply(teacher, batch, rng=rng, train=True, method="project")
  return jax.lax.stop_gradient(out["projection"]), {**teacher, **new}
