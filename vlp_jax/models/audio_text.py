"""Sound and words in one space: an audio tower and a bag of word vectors.

Reads:   audio_samples, audio_mask [B, S]; text_ids, text_mask [B, L].
Returns: audio_embed, text_embed [B, D] float32 of norm 1, and audio_features [B, C] of
         the tower, for probes. Rows without the stream are 0 and in no statistics; a
         stream that is not in the batch is not in the output.

The objectives are those of dual encoders (`objectives.contrastive`) with
`streams=("audio", "text")`.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax import resolve
from vlp_jax.heads import project
from vlp_jax.layers import dropout, fields, logmel, norm
from vlp_jax.metrics import wide
from vlp_jax.towers import audio_resnet, word2vec_bag

TOWERS = {
  "audio_resnet": audio_resnet.AudioResNet,
  "audio_resnet18": audio_resnet.AudioResNet18,
}
VARIANTS = {
  "audio_resnet50": {},
  "mu": dict(
    embed_dim=16,
    word_dim=8,
    text_mlp_dim=16,
    front_end="mmv16k",
    tower_args=dict(depths=(1, 1), widths=(8, 16), stem_width=4),
  ),
  # Minutes on a laptop: one word of at most a second, at 8 kHz.
  "word": dict(
    embed_dim=64,
    word_dim=32,
    text_mlp_dim=64,
    front_end="speech8k",
    normalise="bins",
    dropout=0.3,
    tower_args=dict(depths=(1, 1), widths=(64, 128), stem_width=24, pool="parts"),
  ),
}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    vocab_size: rows of the word table.
    tower: a name of `TOWERS`; tower_args: its keywords.
    embed_dim: D. word_dim, text_mlp_dim: see `towers.word2vec_bag`.
    dropout: of the audio features before the projection.
    front_end, normalise: of `layers.logmel`; the sound must have the sampling rate of
      the former.
    bn_groups: see `layers.norm`. dtype: "float32" or "bfloat16".
  """

  vocab_size: int
  tower: Literal[*TOWERS] = "audio_resnet"
  tower_args: Mapping = dataclasses.field(default_factory=dict)
  embed_dim: fields.Count = 512
  word_dim: fields.Count = 300
  text_mlp_dim: fields.Count = 2048
  dropout: fields.Rate = 0.0
  front_end: fields.FrontEnd = "mmv16k"
  normalise: fields.Norm = "example"
  bn_groups: fields.Count = 1
  dtype: fields.Dtype = "float32"

  def setup(self):
    if self.tower not in TOWERS:
      raise ValueError(f"no tower {self.tower!r}.{resolve.nearest(self.tower, TOWERS)}")
    dtype = jnp.dtype(self.dtype)
    own = dict(self.tower_args) | dict(bn_groups=self.bn_groups, dtype=dtype)
    self.audio_tower = resolve.bind(TOWERS[self.tower], own, what="model.tower_args")()
    self.text_tower = word2vec_bag.Word2VecBag(
      vocab_size=self.vocab_size,
      embed_dim=self.embed_dim,
      word_dim=self.word_dim,
      mlp_dim=self.text_mlp_dim,
      train_words=True,
      pad_in_max=False,
      dtype=dtype,
    )
    bn = functools.partial(norm.BatchNorm, groups=self.bn_groups)
    self.audio_head = project.Projection(
      self.embed_dim, norm=bn, bn_after=True, dtype=dtype
    )
    self.drop = dropout.Dropout(self.dropout)

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    samples = 16 * logmel.front_end(self.front_end).hop
    shapes = {
      "audio_samples": ((1, samples), jnp.int16),
      "audio_mask": ((1, samples), jnp.bool_),
      "text_ids": ((1, 4), jnp.int32),
      "text_mask": ((1, 4), jnp.bool_),
    }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """Both streams, as far as the batch has them."""
    out = {}
    if "audio_samples" in batch:
      out |= self.encode_audio(batch, train=train)
    if "text_ids" in batch:
      out |= self.encode_text(batch, train=train)
    return out

  def encode_audio(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """audio_embed [B, D], audio_features [B, C]."""
    mask, settings = batch["audio_mask"], logmel.front_end(self.front_end)
    sound = logmel.log_mel(batch["audio_samples"], mask, settings=settings)
    x = logmel.normalise(sound["logmel"], sound["mask"], self.normalise)
    run = dict(train=train, where=mask.any(-1))
    features = wide(self.audio_tower(x, frames=sound["mask"], **run)["features"])
    y = self.audio_head(self.drop(features, train=train), **run)
    out = {"audio_embed": _unit(y), "audio_features": features}
    return {k: jnp.where(run["where"][:, None], x, 0.0) for k, x in out.items()}

  def encode_text(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """text_embed [B, D]."""
    del train  # no layer behaves differently
    mask = batch["text_mask"]
    y = _unit(self.text_tower(batch["text_ids"], mask))
    return {"text_embed": jnp.where(mask.any(-1)[:, None], y, 0.0)}


def _unit(x):
  x = wide(x)
  return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)
