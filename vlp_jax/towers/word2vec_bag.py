"""Bag of word vectors: two layers around a maximum over words (arXiv 1912.06430).

  embed = fc2( max_l relu( fc1( words[id_l] ) ) )

fc1 300 to 2,048 and fc2 to the joint width in the published net, no normalisation; the
table is GoogleNews word2vec, frozen, with row 0 for padding and unknown words. MMV
(arXiv 2006.16228) stops at the maximum: `embed_dim=0`.
"""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv3d
from vlp_jax.metrics import wide


class Word2VecBag(nn.Module):
  """The tower.

  Attributes:
    vocab_size, word_dim: shape of the table `words`.
    embed_dim: of fc2; 0 leaves it out and gives [..., mlp_dim].
    train_words: False holds the table: no gradient reaches it. Weight decay would still
      move it, so optimiser groups freeze `words$` as well.
    pad_in_max: True as published: padding takes part in the maximum as word 0. False
      leaves it out; a text without words is then all zeros before fc2.
  """

  vocab_size: int
  embed_dim: int = 512
  word_dim: int = 300
  mlp_dim: int = 2048
  train_words: bool = False
  kernel_init: Callable = conv3d.torch_uniform
  pad_in_max: bool = True
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
    """Embeds texts: ids int32, mask bool [..., L] to [..., embed_dim] float32."""
    shape = (self.vocab_size, self.word_dim)
    words = self.param("words", nn.initializers.normal(1.0), shape)
    if not self.train_words:
      words = jax.lax.stop_gradient(words)
    init = self.kernel_init
    fc1 = nn.Dense(self.mlp_dim, kernel_init=init, dtype=self.dtype, name="fc1")
    # What stands behind the mask never matters; an id out of range gives NaN, loudly.
    x = nn.relu(fc1(jnp.take(words, jnp.where(mask, ids, 0), axis=0)))
    if not self.pad_in_max:
      x = jnp.where(mask[..., None], x, 0.0)  # below no value of a ReLU
    x = x.max(-2)
    if self.embed_dim:
      fc2 = nn.Dense(self.embed_dim, kernel_init=init, dtype=self.dtype, name="fc2")
      x = fc2(x)
    return wide(x)
