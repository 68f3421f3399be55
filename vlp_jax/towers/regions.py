"""Image regions of a detector as input embeddings (UNITER, arXiv 1909.11740)."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense, dropout

BOX_DIM = 7  # x1 y1 x2 y2 w h area, all in 0..1


class Regions(nn.Module):
  """Drop(LN(LN(W_v f) + LN(W_p box) + type)), three norms of their own.

  A masked region has f = 0 and a learned vector of the features' width added in front
  of W_v; its box stays. `mask` has two rows as in the published weights; row 0, which
  stands for "not masked", is held to be zero and never read.
  """

  width: int
  region_dim: int = 2048
  dropout: float = 0.1
  eps: float = 1e-12
  dtype: str = "float32"

  def setup(self):
    init = nn.with_logical_partitioning(dense.INIT, (None, "embed"))
    zeros = nn.initializers.zeros_init()
    # Kept bare, not in a layer: the head of masked region features is tied to it.
    self.kernel = self.param("features_kernel", init, (self.region_dim, self.width))
    self.bias = self.param("features_bias", zeros, (self.width,))
    self.boxes = dense.Linear(self.width, (None, "embed"), dtype=self.dtype)
    self.mask = self.param("mask", _mask_init, (2, self.region_dim))
    self.features_norm = dense.LayerNorm(self.eps)
    self.boxes_norm = dense.LayerNorm(self.eps)
    self.norm = dense.LayerNorm(self.eps, self.dtype)
    self.drop = dropout.Dropout(self.dropout)

  def __call__(
    self,
    features: jax.Array,
    boxes: jax.Array,
    kind: jax.Array,
    *,
    masked: jax.Array | None = None,
    delta: jax.Array | None = None,
    train: bool = False,
  ) -> jax.Array:
    """Embeds regions.

    Args:
      features: [B, R, Dr] any float; boxes: [B, R, 7] in 0..1.
      kind: [D] or [B, R, D], rows of the type table shared with the text.
      masked: [B, R] bool, regions whose features are hidden.
      delta: [B, R, Dr], added to the features (adversarial training).
    Returns: [B, R, D] in `dtype`.
    Raises: ValueError for another width of features or boxes.
    """
    if features.shape[-1] != self.region_dim:
      raise ValueError(
        f"regions_features has width {features.shape[-1]}; the model expects "
        f"{self.region_dim}. Set model.region_dim={features.shape[-1]} for these."
      )
    if boxes.shape[-1] != BOX_DIM:
      raise ValueError(f"boxes have {boxes.shape[-1]} numbers, expected {BOX_DIM}.")
    dtype = jnp.dtype(self.dtype)
    x = features.astype(jnp.promote_types(dtype, jnp.float32))
    if masked is not None:
      x = jnp.where(masked[..., None], 0.0, x)
    if delta is not None:
      x = x + delta
    if masked is not None:
      x = x + jnp.where(masked[..., None], self.mask[1], 0.0)
    x = x.astype(dtype) @ self.kernel.astype(dtype) + self.bias.astype(dtype)
    x = self.features_norm(x) + self.boxes_norm(self.boxes(boxes)) + kind
    axes = ("act_batch", "act_length", "act_embed")
    x = nn.with_logical_constraint(self.norm(x), axes)
    return self.drop(x, train=train)


def _mask_init(key, shape):
  return dense.INIT(key, shape).at[0].set(0.0)
