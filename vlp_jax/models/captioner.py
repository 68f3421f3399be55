"""A video encoder and a decoder that writes its caption word by word.

Reads:   of the encoder `features` clips_features [B, T, F], clips_mask [B, T]; of
         `tokens` clips_tokens [B, T] int32, clips_mask; of `s3d` video_frames
         [B, T, H, W, 3], video_mask [B, T]. text_ids, text_mask [B, L], the caption as
         [CLS] w ... [SEP]; example_mask [B], rows that `decode` writes for.
Returns: video [B, K, D], states of the video's steps (0 at padding), video_mask [B, K],
         video_features [B, D], their mean; caption_logits [B, L - 1, V], the scores of
         tokens 1 to L - 1 given those before them. `decode` returns caption_ids [B, M]
         with the [SEP] and without the [CLS], caption_mask, caption_scores [B] (see
         `layers.decoding`); `encode_video` the first three.

The decoder is `heads.decode`, UniVL's (arXiv 2002.06353). `univl` puts the video
encoder of that paper before it (video alone: its cross encoder over the video and an
empty text is left out). `videobert` is the captioner that VideoBERT (1904.01766) and
CBT (1906.05743) train on their own features, given as clips_features [B, 1, F]: a
Transformer of 2 layers, width 128, dropout 0.4 (1804.00819); its number of heads and
the width of its MLP are not given there and are fields here.
"""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.heads import decode
from vlp_jax.layers import decoding, dense, fields
from vlp_jax.metrics import wide
from vlp_jax.towers import clip_sequence, s3d
from vlp_jax.vocab import Vocab

ENCODERS = {
  "features": ("clips_features", "clips_mask"),
  "tokens": ("clips_tokens", "clips_mask"),
  "s3d": ("video_frames", "video_mask"),
}
MU = dict(  # for tests: other numbers, same code
  width=32,
  depth=2,
  num_heads=2,
  encoder_depth=1,
  feature_dim=16,
  num_tokens=16,
  token_dim=8,
  max_steps=32,
  max_positions=32,
  max_length=8,
  beam=3,
  stem_width=8,
  stem_window=(2, 2, 2),
  stages=(
    ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
    ("conv_2c", "separable", 16),
  ),
)
SMALL = dict(  # learns on two cores
  width=128,
  depth=2,
  num_heads=4,
  encoder_depth=1,
  num_tokens=256,
  token_dim=128,
  max_positions=128,
  max_length=24,
  **s3d.SMALL,
)
VARIANTS = {
  "mu": MU,
  "small": SMALL,
  "univl": dict(width=768, depth=3, num_heads=12, encoder_depth=6),
  "videobert": dict(
    width=128,
    depth=2,
    num_heads=8,
    encoder_depth=2,
    feature_dim=2 * 1024,  # "+S3D": 3 * 1024
    normalise=False,
    dropout=0.4,
  ),
}


class Model(nn.Module):
  """See the header.

  Attributes:
    vocab: injected; writing needs its [CLS] and [SEP].
    encoder: of ENCODERS. encoder_depth: its blocks; feature_dim: F; num_tokens,
      token_dim: of the table of `tokens`; `stem_*`, `stages`, ...: see `towers.s3d`.
    normalise: whether a norm with parameters stands before the projection (UniVL).
    depth, num_heads, mlp_dim: of the decoder (heads and MLP of the encoder's blocks as
      well); mlp_dim is 4 * width when None.
    max_steps, max_positions: of the two tables of positions.
    max_length, beam, alpha, penalty, min_length, no_repeat, immediate, repetition: how
      `decode` searches, see `layers.decoding`; UniVL's are a beam of 5 and alpha 0.
  """

  vocab: Vocab
  width: fields.Count
  depth: fields.Count
  num_heads: fields.Count
  mlp_dim: fields.Count | None = None
  encoder: Literal[*ENCODERS] = "features"
  encoder_depth: fields.Count = 6
  feature_dim: fields.Count = 1024
  normalise: bool = True
  num_tokens: int = 12**4
  token_dim: fields.Count = 1024
  max_steps: int = 512
  max_positions: int = 512
  stem_width: fields.Count = 64
  space_to_depth: tuple = (2, 2, 2)
  stem_window: tuple = (2, 4, 4)
  stem_strides: tuple = (1, 1, 1)
  stages: tuple = s3d.STAGES
  pool_padding: fields.PoolPadding = "torch"
  max_length: int = 128
  beam: int = 5
  alpha: float = 0.0
  penalty: fields.Penalty = "gnmt"
  min_length: int = 0
  no_repeat: int = 0
  immediate: bool = True
  repetition: float = 1.0
  dropout: fields.Rate = 0.1
  attention_dropout: fields.Rate | None = None
  eps: float = 1e-12
  act: fields.Act = "gelu"
  dtype: fields.Dtype = "float32"
  remat: fields.Remat = "none"
  implementation: fields.Implementation = None

  def setup(self):
    if self.encoder not in ENCODERS:
      raise ValueError(
        f"encoder is {self.encoder!r}; known: {', '.join(map(repr, ENCODERS))}."
      )
    if self.max_length > self.max_positions:
      raise ValueError(
        f"max_length={self.max_length} is beyond max_positions={self.max_positions}."
      )
    shared = dict(eps=self.eps, dtype=self.dtype)
    blocks = dict(
      num_heads=self.num_heads,
      mlp_dim=self.mlp_dim or 4 * self.width,
      dropout=self.dropout,
      attention_dropout=self.attention_dropout,
      act=self.act,
      implementation=self.implementation,
      remat=self.remat,
      **shared,
    )
    if self.encoder == "s3d":
      self.video_tower = s3d.S3D(
        embed_dim=0,
        stem_width=self.stem_width,
        space_to_depth=self.space_to_depth,
        stem_window=self.stem_window,
        stem_strides=self.stem_strides,
        stages=self.stages,
        pool_padding=self.pool_padding,
        dtype=jnp.dtype(self.dtype),
      )
    elif self.encoder == "tokens":
      init = nn.with_logical_partitioning(dense.INIT, ("vocab", None))
      size = self.num_tokens, self.token_dim
      self.video_tokens = self.param("video_tokens", init, size)
    self.clips = clip_sequence.ClipSequence(
      width=self.width,
      depth=self.encoder_depth,
      max_steps=self.max_steps,
      normalise=self.normalise,
      **blocks,
    )
    self.decoder = decode.Decoder(
      self.vocab,
      self.width,
      depth=self.depth,
      max_positions=self.max_positions,
      **blocks,
    )

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every batch key that makes parameters, at a tiny size."""
    make = lambda dtype, *shape: jax.ShapeDtypeStruct((2, *shape), dtype)
    text = {"text_ids": make(jnp.int32, 3), "text_mask": make(jnp.bool_, 3)}
    if self.encoder == "s3d":
      frames = make(jnp.uint8, 8, 32, 32, 3)
      return text | {"video_frames": frames, "video_mask": make(jnp.bool_, 8)}
    text["clips_mask"] = make(jnp.bool_, 2)
    if self.encoder == "tokens":
      return text | {"clips_tokens": make(jnp.int32, 2)}
    return text | {"clips_features": make(jnp.float32, 2, self.feature_dim)}

  def encode_video(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """The video alone: video [B, K, D], video_mask [B, K], video_features [B, D]."""
    key, mask = ENCODERS[self.encoder]
    if key not in batch:
      raise KeyError(
        f"encoder {self.encoder!r} reads {key}; the batch holds {sorted(batch)}."
      )
    x, where = batch[key], batch[mask]
    if self.encoder == "s3d":
      x, where = self._stages(x, where, train)
    elif self.encoder == "tokens":
      x = jnp.take(self.video_tokens, x, axis=0)  # one beyond the table gives NaN
    elif x.shape[-1] != self.feature_dim:
      raise ValueError(
        f"clips_features are {x.shape[-1]} wide; set model.feature_dim to that, not "
        f"{self.feature_dim}."
      )
    states = self.clips(x, where, train=train)
    count = jnp.maximum(where.sum(axis=1, keepdims=True), 1)
    mean = wide(states).sum(axis=1) / count
    return {"video": states, "video_mask": where, "video_features": mean}

  def _stages(self, frames, mask, train):
    """[B, t, C], S3D's last stage averaged over space, and [B, t] bool, its real steps.

    A step is real if one of the frames that it stands for is.
    """
    frames = jnp.where(mask[..., None, None, None], frames, 0)  # black, as published
    out = self.video_tower(frames, train=train, where=mask.any(axis=1), stages=True)
    x = wide(out["stages"][self.stages[-1][0]]).mean(axis=(2, 3))
    steps, length = x.shape[1], mask.shape[1]
    step = jnp.arange(length) * steps // length
    of = step == jnp.arange(steps)[:, None]  # [t, T]
    return x, (mask[:, None] & of).any(axis=-1)

  def __call__(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    out = self.encode_video(batch, train=train)
    if "text_ids" in batch:
      ids, where = batch["text_ids"][:, :-1], batch["text_mask"][:, :-1]
      seen = out["video"], out["video_mask"]
      out["caption_logits"] = self.decoder(ids, where, *seen, train=train)
    return out

  def decode(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """caption_ids [B, M] int32, caption_mask [B, M] bool, caption_scores [B] float32.

    Rows whose example_mask is False get an empty caption.
    """
    if train:
      raise ValueError("captions are written with train=False.")
    search = decoding.Search(
      max_length=self.max_length,
      beam=self.beam,
      alpha=self.alpha,
      penalty=self.penalty,
      min_length=self.min_length,
      no_repeat=self.no_repeat,
      immediate=self.immediate,
      repetition=self.repetition,
    )
    out = self.encode_video(batch)
    written = self.decoder.write(
      out["video"], out["video_mask"], search, rows=batch.get("example_mask")
    )
    names = ("caption_ids", "caption_mask", "caption_scores")
    return dict(zip(names, written, strict=True))
