"""SimCLR: two views of an example against those of all others (arXiv 2002.05709)."""

from collections.abc import Mapping, Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from vlp_jax.augment import colours
from vlp_jax.metrics import Mean, Term
from vlp_jax.objectives import nce
from vlp_jax.objectives import views as views_lib

SIDES = ("added", "mean")
# Of ImageNet; `colours.simclr(0.5)` and no blur for CIFAR.
VIEW = dict(size=224, crop={}, flip={}, jitter=colours.simclr(1.0), grey={}, blur={})


def nt_xent(
  first: jax.Array,
  second: jax.Array,
  *,
  where: jax.Array | bool = True,
  tau: float = 0.1,
  sides: Literal[*SIDES] = "added",
) -> tuple[jax.Array, jax.Array]:
  """`nce.nt_xent` of projections [B, D], and whether the partners are the nearest.

  Args:
    where: [B] bool, rows that count.
    sides: "added", l(1, 2) + l(2, 1), whose mean over B is the published code's loss;
      "mean", half of it: the paper's mean over 2B.
  Returns: [B] float32 in nats, [B, 2] bool.
  """
  if sides not in SIDES:
    raise ValueError(f"sides is {sides!r}; give one of {SIDES}.")
  masks = dict(where=where, first_where=where)
  loss, right = nce.nt_xent_and_matches(first, second, tau=tau, **masks)
  return loss if sides == "added" else loss / 2, right


def simclr(
  apply,
  variables,
  batch,
  key,
  *,
  views: Mapping | Sequence = VIEW,
  stream: views_lib.Stream = "image",
  tau: float = 0.1,
  sides: Literal[*SIDES] = "added",
):
  """NT-Xent between two views of each row, made here; mean over real rows.

  It reads the pixels or samples of `stream`, example_id and, if given, masks. Both
  views go through the model at once, so BatchNorm has statistics of all 2B of them.
  Negatives are both views of all other real rows of the global batch, and gradients
  flow into them. The step takes the whole batch at once (`global_batch`).

  Args:
    views: settings of `objectives.views`, for both or a list of two of one size.
    stream: "image", "video" or "audio".
    tau: 0.1 for ImageNet, 0.5 for CIFAR.
    sides: see `nt_xent`.
  Returns: term `nt_xent` in nats; metric `nt_xent/accuracy`, the share of views whose
    partner is nearer than all other examples; the new batch statistics.
  """
  first_key, second_key, drop_key = jax.random.split(key, 3)
  settings = views_lib.pair(views)
  one, other = (
    views_lib.make(batch, k, s, stream=stream)
    for k, s in zip((first_key, second_key), settings, strict=True)
  )
  # Side by side, so that both views of a row stay on its device.
  both = {k: _beside(x, other[k]) for k, x in one.items()}
  rng = jax.random.fold_in(drop_key, batch["example_id"][0])
  out, mutable = apply(variables, both, rng=rng, train=True)
  z = out["projection"].reshape(-1, 2, out["projection"].shape[-1])
  where = views_lib.real(batch, stream)
  loss, right = nt_xent(z[:, 0], z[:, 1], where=where, tau=tau, sides=sides)
  aux = {"nt_xent/accuracy": Mean.of(right, where[:, None])}
  return {"nt_xent": Term(*Mean.of(loss, where))}, aux, mutable


simclr.global_batch = True


def _beside(x, y):
  if x.shape != y.shape:
    raise ValueError(f"the views differ in size: {x.shape}, {y.shape}.")
  return jnp.stack([x, y], axis=1).reshape(-1, *x.shape[1:])
