"""CrossTask: seconds scored for steps by the words of their names (arXiv 1903.08225).

Reads:   clips_features [B, T, D], a second each, clips_mask [B, T]; choice_ids,
         choice_mask [B, K, L], names of the steps of the video's task.
Returns: word_logits [B, T, M] of the M words of the vocabulary; step_logits [B, T, K],
         0 where a clip or a step is missing; step_mask [B, K], which steps there are.

    step_logits = (W drop(x) + b) A,   A_mk = 1 / n_k where word m is one of the n_k
                                       different words of step k, else 0

so that steps with a word in common learn from each other, in all tasks ("share=words"
of the published code). There words are parted by blanks; here by the vocabulary.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv3d, dropout, fields
from vlp_jax.metrics import wide

MU = dict(feature_dim=24, dropout=0.5)
VARIANTS = {
  "mu": MU,
  "paper": dict(feature_dim=3200),  # I3D 1024, ResNet-152 2048, VGGish 128
}


def shares(ids: jax.Array, mask: jax.Array, size: int) -> jax.Array:
  """A transposed, [..., K, M]: 1 / n at the n different words of a step, else 0.

  Args:
    ids, mask: [..., K, L] words of each step, and which are real.
    size: M. A step without a word, and an id beyond, have no share in anything.
  """
  has = jax.nn.one_hot(jnp.where(mask, ids, -1), size).max(axis=-2)
  return has / jnp.maximum(has.sum(axis=-1, keepdims=True), 1.0)


class Model(nn.Module):
  """See the module's header.

  Attributes:
    vocab_size: M, injected.
    feature_dim: D.
    dropout: of the features; the mask is drawn in steps of 1/256 (`layers.dropout`).
  """

  vocab_size: int
  feature_dim: fields.Count = 3200
  dropout: fields.Rate = 0.7
  dtype: fields.Dtype = "float32"

  def setup(self):
    self.drop = dropout.Dropout(self.dropout)
    dtype, init = jnp.dtype(self.dtype), conv3d.torch_uniform
    self.words = nn.Dense(self.vocab_size, kernel_init=init, dtype=dtype)

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model reads, at the least sizes."""
    shapes = {
      "clips_features": ((1, 3, self.feature_dim), jnp.float32),
      "clips_mask": ((1, 3), jnp.bool_),
      "choice_ids": ((1, 2, 4), jnp.int32),
      "choice_mask": ((1, 2, 4), jnp.bool_),
    }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """See the module's header."""
    x, mask = batch["clips_features"], batch["clips_mask"][..., None]
    if x.shape[-1] != self.feature_dim:
      raise ValueError(
        f"clips_features has width {x.shape[-1]}; crosstask expects "
        f"{self.feature_dim}. Set model.feature_dim for other extractors."
      )
    x = jnp.where(mask, x, 0.0)  # rubbish behind the mask must not reach a gradient
    words = jnp.where(mask, wide(self.words(self.drop(x, train=train))), 0.0)
    share = shares(batch["choice_ids"], batch["choice_mask"], self.vocab_size)
    return {
      "word_logits": words,
      "step_logits": jnp.einsum("btm,bkm->btk", words, share),
      "step_mask": batch["choice_mask"].any(axis=-1),
    }
