"""Steps of a video in order: a projection, positions, post-norm blocks.

    x_t = Drop(LN(W LN_f(f_t) + p_t)), then `transformer.Stack`

UniVL's video encoder (arXiv 2002.06353): its learned norm LN_f over raw features, a
linear map instead of a word table, no types; six layers and 43,711,232 parameters with
features of 1024 and no pooler.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dense, dropout, transformer


class ClipSequence(nn.Module):
  """[B, T, F] to [B, T, D].

  Attributes:
    depth: blocks; 0 leaves the projection with its positions.
    normalise: whether LN_f stands before the projection.
    others: see `layers.transformer`.
  """

  width: int
  depth: int
  num_heads: int
  mlp_dim: int
  max_steps: int = 512
  normalise: bool = True
  dropout: float = 0.1
  attention_dropout: float | None = None
  eps: float = 1e-12
  act: str = "gelu"
  dtype: str = "float32"
  implementation: str | None = None
  remat: str = "none"

  @nn.compact
  def __call__(
    self, x: jax.Array, where: jax.Array, *, train: bool = False
  ) -> jax.Array:
    """States, 0 at padding.

    Args:
      x: [B, T, F] float; where: [B, T] bool, real steps.
    Raises: ValueError when T is beyond the table of positions.
    """
    length = x.shape[1]
    if length > self.max_steps:
      raise ValueError(
        f"{length} steps of a video, a table for {self.max_steps}; cut the video or "
        "set model.max_steps."
      )
    if self.normalise:
      x = dense.LayerNorm(self.eps, self.dtype, name="input_norm")(x)
    x = dense.Linear(self.width, (None, "embed"), dtype=self.dtype, name="project")(x)
    init = nn.with_logical_partitioning(dense.INIT, (None, "embed"))
    places = self.param("positions", init, (self.max_steps, self.width))
    x = dense.LayerNorm(self.eps, self.dtype, name="norm")(x + places[:length])
    x = nn.with_logical_constraint(x, ("act_batch", "act_length", "act_embed"))
    x = dropout.Dropout(self.dropout)(x, train=train)
    if self.depth:
      x = transformer.Stack(
        self.depth,
        self.num_heads,
        self.mlp_dim,
        self.dropout,
        self.attention_dropout,
        self.eps,
        self.act,
        self.dtype,
        self.implementation,
        self.remat,
        name="encoder",
      )(x, where, train=train).x
    return jnp.where(where[..., None], x, 0)
