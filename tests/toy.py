"""A tiny model, objective and data for tests of the spine."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlp_jax.metrics import Mean, Term


class Model(nn.Module):
  """Regions [B, R, D] to one logit vector a row; dropout, and a batch norm if asked."""

  width: int = 16
  statistics: bool = False
  dropout: float = 0.0

  def spec(self):
    f = jax.ShapeDtypeStruct
    return {
      "regions_features": f((1, 2, 8), jnp.float32),
      "regions_mask": f((1, 2), jnp.bool_),
    }

  @nn.compact
  def __call__(self, batch, *, train=False):
    kernel = nn.with_logical_partitioning(nn.initializers.normal(0.5), ("embed", "mlp"))
    kind = batch["regions_features"].dtype
    x = nn.Dense(self.width, kernel_init=kernel, dtype=kind)(batch["regions_features"])
    if self.statistics:
      x = nn.BatchNorm(use_running_average=not train, dtype=kind)(x)
    x = nn.Dropout(self.dropout, deterministic=not train)(nn.gelu(x))
    x = jnp.where(batch["regions_mask"][..., None], x, 0).sum(1)
    return {"logits": nn.Dense(4, dtype=kind)(x)}


def classify(apply, variables, batch, key, *, coef=1.0):
  """Cross entropy over rows, and a second term over regions with another weight."""
  rng = jax.random.fold_in(key, batch["example_id"][0])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  xent = optax.softmax_cross_entropy_with_integer_labels(out["logits"], batch["label"])
  where = batch["example_mask"]
  odd = (jnp.square(out["logits"]) * batch["regions_mask"].sum(1, keepdims=True)).mean(
    1
  )
  terms = {
    "xent": Term(*Mean.of(xent, where), coef=coef),
    "size": Term(
      jnp.where(where, odd, 0).sum(), batch["regions_mask"].sum() * 1.0, 0.1
    ),
  }
  right = Mean.of(out["logits"].argmax(-1) == batch["label"], where)
  return terms, {"accuracy": right}, mutable


def batches(count=4, rows=16, dtype=np.float32, seed=0):
  """Learnable rows: the label is the largest of the first four summed features."""
  rng = np.random.default_rng(seed)
  out = []
  for i in range(count):
    x = rng.normal(size=(rows, 3, 8)).astype(dtype)
    mask = np.arange(3) < rng.integers(1, 4, (rows, 1))
    label = np.where(mask[..., None], x, 0).sum(1)[:, :4].argmax(1)
    real = np.ones(rows, bool)
    real[-1] = i % 2 == 0
    out.append(
      {
        "regions_features": x,
        "regions_mask": mask,
        "label": label.astype(np.int32),
        "example_id": np.arange(i * rows, (i + 1) * rows, dtype=np.int32),
        "example_mask": real,
      }
    )
  return out
