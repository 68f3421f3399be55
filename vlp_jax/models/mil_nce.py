"""MIL-NCE: a video tower and a bag of words in one space (arXiv 1912.06430).

Reads:   video_frames [B, T, H, W, 3], video_mask [B, T]; narration_ids, narration_mask
         [B, K, L], or text_ids, text_mask [B, L] when there are no narrations.
Returns: video_embed [B, D], video_features [B, C] (mean of the last stage, "mixed5c",
         for probes); text_embed [B, K, D], or [B, D] of text_ids. A modality that is
         not in the batch is not in the output; a row whose mask is all False is 0.

Embeddings are compared by their dot product, not normalised, as published. Missing
frames (mask False) are black, as in the published loader, and count like others.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import fields
from vlp_jax.towers import colour_histogram, i3d, s3d, word2vec_bag

# Tests and laptops: fewer and narrower stages, coarser first blocks, the same code.
MU = dict(
  embed_dim=16,
  word_dim=8,
  text_mlp_dim=16,
  train_words=True,
  stem_width=8,
  stem_window=(2, 2, 2),
  stages=(
    ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
    ("conv_2b", "point", 8),
    ("conv_2c", "separable", 8),
    ("gating", "gate"),
    ("maxpool_3a", "pool", (3, 3, 3), (2, 2, 2)),
    ("mixed_3b", "inception", 4, 4, 4, 4, 4, 4),
  ),
)
QUICK = dict(
  embed_dim=128,
  word_dim=64,
  text_mlp_dim=256,
  train_words=True,
  **s3d.SMALL,
)
PLAIN_STEM = dict(space_to_depth=(), stem_window=(3, 7, 7), stem_strides=(2, 2, 2))
VARIANTS = {"mu": MU, "quick": QUICK, "s3d": {}, "s3d_repo": PLAIN_STEM}
VARIANTS |= {"i3d": dict(video="i3d")}
VIDEOS = ("s3d", "i3d", "colour_histogram")


class Model(nn.Module):
  """See the module's header.

  Attributes:
    vocab_size: rows of the word table, 66,250 in the released net.
    video: "s3d", "i3d", or "colour_histogram" for the baseline that sees colour alone.
    train_words, pad_in_max: see `towers.word2vec_bag`; `stem_*`, `stages`,
      `pool_padding`, `bn_*`, `remat`: see `towers.s3d`. I3D has the stem, padding and
      eps of `towers.i3d`.
    dtype: of the computation, "float32" or "bfloat16".
  """

  vocab_size: int
  video: Literal[*VIDEOS] = "s3d"
  embed_dim: fields.Count = 512
  word_dim: fields.Count = 300
  text_mlp_dim: fields.Count = 2048
  train_words: bool = False
  pad_in_max: bool = True
  stem_width: fields.Count = 64
  space_to_depth: tuple = (2, 2, 2)
  stem_window: tuple = (2, 4, 4)
  stem_strides: tuple = (1, 1, 1)
  stages: tuple = s3d.STAGES
  pool_padding: fields.PoolPadding = "torch"
  bn_eps: float = 1e-5
  bn_momentum: float = 0.9
  bn_groups: fields.Count = 1
  remat: fields.ConvRemat = "none"
  dtype: fields.Dtype = "float32"

  def setup(self):
    dtype = jnp.dtype(self.dtype)
    if self.video == "s3d":
      self.video_tower = s3d.S3D(
        embed_dim=self.embed_dim,
        stem_width=self.stem_width,
        space_to_depth=self.space_to_depth,
        stem_window=self.stem_window,
        stem_strides=self.stem_strides,
        stages=self.stages,
        pool_padding=self.pool_padding,
        bn_eps=self.bn_eps,
        bn_momentum=self.bn_momentum,
        bn_groups=self.bn_groups,
        remat=self.remat,
        dtype=dtype,
      )
    elif self.video == "i3d":
      self.video_tower = i3d.I3D(
        embed_dim=self.embed_dim,
        stem_width=self.stem_width,
        stages=self.stages,
        bn_momentum=self.bn_momentum,
        bn_groups=self.bn_groups,
        remat=self.remat,
        dtype=dtype,
      )
    elif self.video == "colour_histogram":
      self.video_tower = colour_histogram.ColourHistogram(self.embed_dim)
    else:
      raise ValueError(f"video is {self.video!r}; give one of {VIDEOS}.")
    self.text_tower = word2vec_bag.Word2VecBag(
      vocab_size=self.vocab_size,
      embed_dim=self.embed_dim,
      word_dim=self.word_dim,
      mlp_dim=self.text_mlp_dim,
      train_words=self.train_words,
      pad_in_max=self.pad_in_max,
      dtype=dtype,
    )

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    ids, mask = jnp.int32, jnp.bool_
    shapes = {
      "video_frames": ((1, 8, 32, 32, 3), jnp.uint8),
      "video_mask": ((1, 8), mask),
      "narration_ids": ((1, 2, 4), ids),
      "narration_mask": ((1, 2, 4), mask),
      "text_ids": ((1, 4), ids),
      "text_mask": ((1, 4), mask),
    }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """Both modalities, as far as the batch has them."""
    out = self.encode_video(batch, train=train) if "video_frames" in batch else {}
    if "narration_ids" in batch or "text_ids" in batch:
      out |= self.encode_text(batch, train=train)
    return out

  def encode_video(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """video_embed [B, D] and video_features [B, C], float32."""
    frames, mask = self._clips(batch)
    where = mask.any(-1)
    if self.video == "colour_histogram":
      out = self.video_tower(frames, mask)
    else:
      out = self.video_tower(frames, train=train, where=where)
    return {
      f"video_{k}": jnp.where(where[:, None], out[k], 0.0)
      for k in ("embed", "features")
    }

  def encode_text(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """text_embed [B, K, D] of narrations, or [B, D] of text_ids, float32."""
    stream = "narration" if "narration_ids" in batch else "text"
    ids, mask = batch[f"{stream}_ids"], batch[f"{stream}_mask"]
    embed = self.text_tower(ids, mask)
    return {"text_embed": jnp.where(mask.any(-1)[..., None], embed, 0.0)}

  def video_stages(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """Activations [B, t, h, w, c] of every stage of the tower by name, stem first."""
    if self.video == "colour_histogram":
      raise ValueError(f"video_stages needs video='s3d', not {self.video!r}.")
    frames, mask = self._clips(batch)
    out = self.video_tower(frames, train=train, where=mask.any(-1), stages=True)
    return out["stages"]

  def _clips(self, batch):
    """Frames with the missing ones black, and their mask [B, T]."""
    frames, mask = batch["video_frames"], batch["video_mask"]
    real = mask[..., None, None, None]
    return jnp.where(real, frames, jnp.zeros((), frames.dtype)), mask
