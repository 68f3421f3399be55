"""HowTo100M: clip features and word vectors in one space (arXiv 1906.03327).

Reads:   clips_features [B, T, sum of feature_dims], clips_mask [B, T]: 2D before
         3D features; narration_ids, narration_mask [B, K, L], or text_ids, text_mask
         [B, L] when there are no narrations.
Returns: clips_embed [B, T, D], every time step alone; video_embed [B, D] of their
         maximum; text_embed [B, K, D], or [B, D] of text_ids. Unit vectors, compared by
         their product. A modality that is not in the batch is not in the output; what
         its mask leaves nothing of is 0.

Text:   gated( max_l relu(W x_l + b) ) over the vectors x_l of L words. Padding takes
        part in the maximum as the zero vector, as published.
Video:  gated( [unit(max_t 2D), unit(max_t 3D)] ), a gated embedding unit each.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv3d, fields, gated

MU = dict(embed_dim=16, word_dim=8, feature_dims=(6, 4), train_words=True)
VARIANTS = {
  "mu": MU,
  "code": dict(embed_dim=2048),  # default of the published code
  "paper": dict(embed_dim=4096),  # its command for HowTo100M
  "released": dict(embed_dim=6144),  # the weights that were released
}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    vocab_size: rows of the table of word vectors; row 0 is padding and never read.
    feature_dims: widths of the parts of a feature, each brought to unit norm.
    unit_features: False takes the features as they are.
    train_words: False holds the table, GoogleNews word2vec in the paper. Weight decay
      would still move it, so optimiser groups freeze `words$` as well.
  """

  vocab_size: int
  embed_dim: fields.Count = 4096
  word_dim: fields.Count = 300
  feature_dims: tuple = (2048, 2048)
  unit_features: bool = True
  train_words: bool = False
  dtype: fields.Dtype = "float32"

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    shape = (self.vocab_size, self.word_dim)
    self.words = self.param("words", nn.initializers.normal(1.0), shape)
    init = conv3d.torch_uniform
    self.text_pooling = nn.Dense(self.embed_dim, kernel_init=init, dtype=dtype)
    self.text_gate = gated.GatedUnit(self.embed_dim, dtype)
    self.video_gate = gated.GatedUnit(self.embed_dim, dtype)

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    ids, mask = jnp.int32, jnp.bool_
    shapes = {
      "clips_features": ((1, 2, sum(self.feature_dims)), jnp.float32),
      "clips_mask": ((1, 2), mask),
      "narration_ids": ((1, 2, 4), ids),
      "narration_mask": ((1, 2, 4), mask),
      "text_ids": ((1, 4), ids),
      "text_mask": ((1, 4), mask),
    }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """Both modalities, as far as the batch has them."""
    out = {}
    if "clips_features" in batch:
      out |= self.encode_clips(batch, train=train)
      out |= self.encode_video(batch, train=train)
    if "narration_ids" in batch or "text_ids" in batch:
      out |= self.encode_text(batch, train=train)
    return out

  def encode_clips(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """clips_embed [B, T, D]: each time step by itself (seconds, or paired clips)."""
    return {"clips_embed": self._embed(*self._features(batch))}

  def encode_video(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """video_embed [B, D]: of the maximum over time of each part."""
    features, mask = self._features(batch)
    where = mask.any(-1)
    # Masked steps lose every maximum; without a step the row is 0, as published.
    most = jnp.where(mask[..., None], features, -jnp.inf).max(-2)
    most = jnp.where(where[:, None], most, 0.0)
    return {"video_embed": self._embed(most, where)}

  def encode_text(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """text_embed [B, K, D] of narrations, or [B, D] of text_ids, float32."""
    stream = "narration" if "narration_ids" in batch else "text"
    ids, mask = batch[f"{stream}_ids"], batch[f"{stream}_mask"]
    words = self.words if self.train_words else jax.lax.stop_gradient(self.words)
    # An id out of range gives NaN, loudly; what stands behind the mask never matters.
    vectors = jnp.take(words, jnp.where(mask, ids, 0), axis=0)
    vectors = jnp.where(mask[..., None], vectors, 0.0)
    embed = self.text_gate(nn.relu(self.text_pooling(vectors)).max(-2))
    return {"text_embed": jnp.where(mask.any(-1)[..., None], embed, 0.0)}

  def _embed(self, features, where):
    if self.unit_features:
      ends = [sum(self.feature_dims[:k]) for k in range(1, len(self.feature_dims))]
      parts = jnp.split(features, ends, axis=-1)
      features = jnp.concatenate([gated.unit(part) for part in parts], axis=-1)
    return jnp.where(where[..., None], self.video_gate(features), 0.0)

  def _features(self, batch):
    features, mask = batch["clips_features"], batch["clips_mask"]
    if features.shape[-1] != sum(self.feature_dims):
      raise ValueError(
        f"clips_features has width {features.shape[-1]}; howto100m expects "
        f"{' + '.join(map(str, self.feature_dims))}, 2D features before 3D ones. Set "
        "model.feature_dims for other extractors."
      )
    # Rubbish behind the mask must not reach a gradient.
    return jnp.where(mask[..., None], features.astype(jnp.float32), 0.0), mask
