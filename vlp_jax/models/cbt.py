"""CBT: a video Transformer, BERT, and a Transformer over both (arXiv 1906.05743).

Reads:   clips_features [B, T, F], clips_mask [B, T], or, with video="s3d", video_frames
         [B, T, t, H, W, 3] and video_mask [B, T, t], T windows of t frames, which may
         also lie one behind the other, [B, T t, H, W, 3] with t = `window`; text_ids,
         text_mask [B, L]; clips_masked [B, T] or [B, M, T], steps hidden in each of M
         forward passes; pair_text [B, K] int32, rows whose text each video is scored
         with; mlm_ids [B, L] and mlm_positions [B, P], corrupted words.
Returns: steps [B, T, D], the embeddings e_t; video [B, T, D], the outputs with nothing
         hidden (0 at padding); video_features [B, D], their mean, for probes and
         captions; input_features [B, F], that of what is given; video_mask [B, T];
         predicted, outputs with steps hidden, [B, T, D] or [B, M, T, D]; text
         [B, L, Dt] and text_features [B, Dt]; pair_scores [B, K];
         mlm_logits [B, P, V]; logits [B, C] if there are num_classes (anticipation,
         classification). All as far as the batch has what they need. `step_mask` gives
         video_mask alone.

A hidden step is 0 behind the embedding, before its position is added. S3D runs with
shared weights over all windows. A frozen tower runs without dropout and with its own
batch statistics, and no gradient reaches it; optimiser groups freeze it as well.
"""

from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.fusion import pair_score
from vlp_jax.heads import match, mlm
from vlp_jax.layers import dense, dropout, fields, norm, transformer
from vlp_jax.metrics import wide
from vlp_jax.towers import bert, s3d

MU = dict(  # for tests: other numbers, same code
  width=32,
  num_heads=2,
  depth=1,
  feature_dim=24,
  text_width=24,
  text_depth=1,
  text_heads=2,
  window=8,
  max_steps=32,
  text_positions=64,
  stem_width=8,
  stem_window=(2, 2, 2),
  stages=(
    ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
    ("conv_2c", "separable", 24),
  ),
)
VARIANTS = {
  "mu": MU,
  "base": {},
  "small": dict(width=256, text_width=256, text_depth=4, text_heads=4),
}
POOLS = ("mean", "last")


class Model(nn.Module):
  """See the header.

  Attributes:
    vocab_size: of BERT, injected.
    video: "features", or "s3d" for frames; feature_dim is then that of its last stage.
    window: frames that S3D sees at once, where they come one behind the other.
    standardise: whether features lose their mean and deviation, which those behind a
      ReLU share, by running statistics (not in the paper).
    width, depth, num_heads: of the video Transformer; cross_depth, cross_heads: of the
      one over both.
    text_*: sizes of BERT. train_text, train_video: whether BERT and S3D learn.
    mlm: whether BERT has its head of masked words, for a loss on it.
    num_classes: of the head on the pooled outputs; 0 for none.
    pool: "mean" of the outputs, or the "last" real one, under that head.
  """

  vocab_size: int
  video: Literal["features", "s3d"] = "features"
  feature_dim: fields.Count = 1024
  standardise: bool = False
  width: fields.Count = 768
  depth: fields.Count = 2
  num_heads: fields.Count = 4
  window: int = 30
  cross_depth: int = 1
  cross_heads: int | None = None
  max_steps: int = 512
  text_width: fields.Count = 768
  text_depth: fields.Count = 12
  text_heads: fields.Count = 12
  text_positions: int = 512
  train_text: bool = False
  train_video: bool = False
  mlm: bool = False
  num_classes: int = 0
  pool: Literal[*POOLS] = "mean"
  stem_width: fields.Count = 64
  space_to_depth: tuple = (2, 2, 2)
  stem_window: tuple = (2, 4, 4)
  stem_strides: tuple = (1, 1, 1)
  stages: tuple = s3d.STAGES
  pool_padding: fields.PoolPadding = "torch"
  dropout: fields.Rate = 0.1
  eps: float = 1e-12
  dtype: fields.Dtype = "float32"
  remat: fields.Remat = "none"

  def setup(self):
    if self.video not in ("features", "s3d"):
      raise ValueError(f"video is {self.video!r}; give 'features' or 's3d'.")
    if self.pool not in POOLS:
      raise ValueError(f"pool is {self.pool!r}; one of {POOLS}.")
    shared = dict(eps=self.eps, dtype=self.dtype)
    if self.video == "s3d":
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
    self.text_tower = bert.Bert(
      self.vocab_size,
      self.text_width,
      self.text_depth,
      self.text_heads,
      max_positions=self.text_positions,
      pool=False,
      dropout=self.dropout,
      remat=self.remat,
      **shared,
    )
    if self.mlm:
      self.mlm_head = mlm.Mlm(eps=self.eps, dtype=self.dtype)
    if self.standardise:
      self.input_norm = norm.BatchNorm(momentum=0.99, center=False, gain=False)
    self.embed = dense.Linear(self.width, (None, "embed"), dtype=self.dtype)
    self.places = self.param("positions", dense.INIT, (self.max_steps, self.width))
    self.norm = dense.LayerNorm(self.eps, self.dtype)
    self.drop = dropout.Dropout(self.dropout)
    self.visual = transformer.Stack(
      self.depth,
      self.num_heads,
      4 * self.width,
      self.dropout,
      remat=self.remat,
      **shared,
    )
    self.cross = pair_score.PairScore(
      self.width,
      self.cross_depth,
      self.cross_heads or self.num_heads,
      self.dropout,
      **shared,
    )
    if self.num_classes:
      self.head = match.Match(self.num_classes)

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every batch key that makes parameters, at a tiny size."""
    make = lambda dtype, *shape: jax.ShapeDtypeStruct((2, *shape), dtype)
    spec = {
      "text_ids": make(jnp.int32, 3),
      "text_mask": make(jnp.bool_, 3),
      "mlm_positions": make(jnp.int32, 1),
    }
    if self.video == "s3d":
      frames = make(jnp.uint8, 2, 8, 32, 32, 3)
      return spec | {"video_frames": frames, "video_mask": make(jnp.bool_, 2, 8)}
    features = make(jnp.float32, 2, self.feature_dim)
    return spec | {"clips_features": features, "clips_mask": make(jnp.bool_, 2)}

  def _steps(self, batch, train):
    """(x [B, T, F], mask [B, T]), the given features or those of the frames."""
    where = self.step_mask(batch)["video_mask"]
    if self.video == "features":
      x = batch["clips_features"]
      if x.shape[-1] != self.feature_dim:
        raise ValueError(
          f"clips_features has width {x.shape[-1]}; cbt expects {self.feature_dim}. "
          f"Set model.feature_dim={x.shape[-1]} for these."
        )
    else:
      frames = self._windows(batch["video_frames"], 3)
      real = self._windows(batch["video_mask"], 0)
      black = jnp.zeros((), frames.dtype)
      frames = jnp.where(real[..., None, None, None], frames, black)
      flat = frames.reshape(-1, *frames.shape[2:])
      learns = train and self.train_video
      x = self.video_tower(flat, train=learns, where=where.reshape(-1))["features"]
      x = x.reshape(*where.shape, -1)
      if not self.train_video:
        x = jax.lax.stop_gradient(x)
    if self.standardise:
      flat = x.reshape(-1, x.shape[-1])
      flat = self.input_norm(flat, train=train, where=where.reshape(-1))
      x = flat.reshape(x.shape)
    return x, where

  def _windows(self, x, axes):
    """[B, T, t, ...] as it is, [B, T t, ...] cut; axes: how many come behind t."""
    if x.ndim == 3 + axes:
      return x
    if x.shape[1] % self.window:
      raise ValueError(
        f"{x.shape[1]} frames do not divide into windows of {self.window}; set "
        "input.num_frames to a multiple, or model.window."
      )
    return x.reshape(len(x), -1, self.window, *x.shape[2:])

  def step_mask(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """video_mask [B, T] alone, for what is decided before a step is embedded.

    A step of frames is real if one of its frames is.
    """
    if self.video == "features":
      return {"video_mask": batch["clips_mask"]}
    return {"video_mask": self._windows(batch["video_mask"], 0).any(axis=-1)}

  def _transform(self, steps, where, hidden, train):
    """The video Transformer over [B, T, D] with the steps hidden [B, T] at 0."""
    if hidden is not None:
      steps = jnp.where(hidden[..., None], 0, steps)
    if steps.shape[1] > self.max_steps:
      raise ValueError(
        f"{steps.shape[1]} clips a row; the model has max_steps={self.max_steps}."
      )
    x = self.norm(steps + self.places[: steps.shape[1]])
    x = self.visual(self.drop(x, train=train), where, train=train).x
    return jnp.where(where[..., None], x, 0)

  def encode_video(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """steps, video, video_features, input_features, video_mask, logits of classes."""
    given, where = self._steps(batch, train)
    steps = self.embed(given)
    x = self._transform(steps, where, None, train)
    count = jnp.maximum(where.sum(axis=1, keepdims=True), 1)
    mean = wide(x).sum(axis=1) / count
    out = {"steps": steps, "video": x, "video_features": mean, "video_mask": where}
    plain = jnp.where(where[..., None], wide(given), 0).sum(axis=1) / count
    out["input_features"] = plain
    if self.num_classes:
      at = jnp.maximum(where.sum(axis=1, dtype=jnp.int32) - 1, 0)[:, None]
      last = mlm.at_positions(x, at)[:, 0]
      out["logits"] = self.head(mean if self.pool == "mean" else last)
    return out

  def encode_text(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    """text [B, L, Dt], text_features [B, Dt] (mean of real tokens)."""
    where = batch["text_mask"]
    x = self._words(batch["text_ids"], where, train)
    count = jnp.maximum(where.sum(axis=1, keepdims=True), 1)
    return {"text": x, "text_features": wide(x).sum(axis=1) / count}

  def _words(self, ids, where, train):
    x = self.text_tower(ids, where, train=train and self.train_text).x
    return x if self.train_text else jax.lax.stop_gradient(x)

  def __call__(
    self, batch: Mapping[str, jax.Array], *, train: bool = False
  ) -> dict[str, jax.Array]:
    out, start = {}, self.is_initializing()
    key = "clips_features" if self.video == "features" else "video_frames"
    if key in batch:
      out |= self.encode_video(batch, train=train)
      if "clips_masked" in batch:
        out["predicted"] = self._predict(out, batch["clips_masked"], train)
    if "text_ids" in batch:
      out |= self.encode_text(batch, train=train)
      if self.mlm and (start or "mlm_ids" in batch):
        ids = batch["text_ids"] if start else batch["mlm_ids"]
        x = self._words(ids, batch["text_mask"], train)
        x = mlm.at_positions(x, batch["mlm_positions"])
        out["mlm_logits"] = self.mlm_head(x, self.text_tower.table)
    if {"video", "text"} <= set(out) and (start or "pair_text" in batch):
      sides = out["video"], out["video_mask"], out["text"], batch["text_mask"]
      if start:
        self.cross(*sides)
      else:
        scores = self.cross.columns(*sides, batch["pair_text"], train=train)
        out["pair_scores"] = scores
    return out

  def _predict(self, out, hidden, train):
    steps, where = out["steps"], out["video_mask"]
    if hidden.ndim == 2:
      return self._transform(steps, where, hidden, train)
    times = hidden.shape[1]  # M forward passes of each row, side by side
    again = lambda x: jnp.repeat(x, times, axis=0)
    flat = hidden.reshape(-1, hidden.shape[-1])
    x = self._transform(again(steps), again(where), flat, train)
    return x.reshape(*hidden.shape, -1)
