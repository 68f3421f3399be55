"""MMV: video, sound and words in joint spaces (arXiv 2006.16228).

Reads:   video_frames [B, T, H, W, 3], video_mask [B, T]; audio_samples, audio_mask
         [B, S]; narration_ids, narration_mask [B, K, L], or text_ids, text_mask [B, L].
Returns: video_embed, audio_embed_text [B, Dt] and text_embed [B, K, Dt] (or [B, Dt]) in
         the space of text; video_embed_audio, audio_embed [B, Da] and text_embed_audio
         in the space of video and sound; video_features, audio_features of the towers,
         for probes. A modality that is not in the batch is not in the output; a row
         whose mask is all False is 0 and is in no batch statistics.

Three graphs of heads, with v, a, t the towers' features:

  shared    one head a modality: P_v(v), P_a(a), P_t(t) in one space
  disjoint  six heads, one for each ordered pair
  fac       fine and coarse: f = P_va(v) and P_av(a) share the fine space; P_c(relu(f))
            and P_tv(t) the coarse one; at test time sound reaches text by P_c(relu(
            P_av(a))). In training sound does not go through P_c unless `audio_text`, so
            that it is in no statistics of its BatchNorm.

Outputs are not normalised: the loss compares cosines, evaluators set `normalise`.
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
from vlp_jax.layers import conv2d, fields, logmel, norm
from vlp_jax.towers import audio_resnet, r2plus1d, s3d, tsm_resnet, word2vec_bag

GRAPHS = ("fac", "shared", "disjoint")
# name -> (class, what MMV gives it)
VIDEO = {
  "s3d": (s3d.S3D, s3d.MMV),
  "tsm_resnet": (tsm_resnet.TSMResNet, {}),
  "r2plus1d": (r2plus1d.R2Plus1D, dict(middles="block", bn_eps=1e-5)),
}
# Tests and laptops: fewer and narrower stages, sound at 16 kHz, the same code.
MU = dict(
  embed_dim=16,
  coarse_dim=8,
  hidden_dim=16,
  word_dim=8,
  text_mlp_dim=16,
  train_words=True,
  front_end="mmv16k",
  video_args=dict(
    stem_width=8,
    stem_window=(2, 2, 2),
    stages=(
      ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
      ("conv_2c", "separable", 8),
      ("gating", "gate"),
      ("maxpool_3a", "pool", (3, 3, 3), (2, 2, 2)),
      ("mixed_3b", "inception", 4, 4, 4, 4, 4, 4),
    ),
  ),
  audio_args=dict(depths=(1, 1), widths=(8, 16), stem_width=4),
)
SMALL = dict(
  embed_dim=128,
  coarse_dim=128,
  hidden_dim=256,
  word_dim=64,
  text_mlp_dim=256,
  train_words=True,
  front_end="mmv16k",
  video_args=s3d.SMALL,
  audio_args=dict(depths=(1, 1, 1), widths=(64, 128, 256), stem_width=24, pool="time"),
)
VARIANTS = {
  "mu": MU,
  "small": SMALL,
  "s3d": {},
  "s3d_plain": dict(video_args=s3d.PLAIN_7),  # for pixels that are not folded
  "tsm_resnet": dict(video="tsm_resnet"),
  "tsm_resnet_x2": dict(video="tsm_resnet", video_args=dict(width_mult=2)),
  "r2plus1d": dict(video="r2plus1d"),
}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    vocab_size: rows of the word table, 65,536 in the released nets.
    graph: "fac", "shared" or "disjoint".
    video: "s3d", "tsm_resnet" or "r2plus1d"; video_args: its keywords, over MMV's own.
    audio_args: of `towers.audio_resnet.AudioResNet`.
    front_end: of `layers.logmel`; the sound must have its sampling rate.
    embed_dim, hidden_dim, coarse_dim: of the heads, coarse_dim of the coarse space.
    audio_text: sound goes through the coarse head in training too.
    word_dim, text_mlp_dim, train_words, pad_in_max: see `towers.word2vec_bag`.
    bn_groups: see `layers.norm`; of all towers and heads.
    remat: of the video tower, see `towers.s3d`.
    dtype: of the computation, "float32" or "bfloat16".
  """

  vocab_size: int
  graph: Literal[*GRAPHS] = "fac"
  video: Literal[*VIDEO] = "s3d"
  video_args: Mapping = dataclasses.field(default_factory=dict)
  audio_args: Mapping = dataclasses.field(default_factory=dict)
  front_end: fields.FrontEnd = "mmv"
  embed_dim: fields.Count = 512
  hidden_dim: fields.Count = 512
  coarse_dim: fields.Count = 256
  audio_text: bool = False
  word_dim: fields.Count = 300
  text_mlp_dim: fields.Count = 2048
  train_words: bool = False
  pad_in_max: bool = True
  bn_groups: fields.Count = 1
  remat: fields.ConvRemat = "none"
  dtype: fields.Dtype = "float32"

  def setup(self):
    for name, known in (("graph", GRAPHS), ("video", tuple(VIDEO))):
      if getattr(self, name) not in known:
        raise ValueError(f"{name} is {getattr(self, name)!r}; give one of {known}.")
    given = dict(bn_groups=self.bn_groups, dtype=jnp.dtype(self.dtype))
    cls, own = VIDEO[self.video]
    own = own | dict(self.video_args) | given | dict(remat=self.remat)
    self.video_tower = resolve.bind(cls, own, what="model.video_args")()
    own, cls = dict(self.audio_args) | given, audio_resnet.AudioResNet
    self.audio_tower = resolve.bind(cls, own, what="model.audio_args")()
    self.text_tower = word2vec_bag.Word2VecBag(
      vocab_size=self.vocab_size,
      embed_dim=0,
      word_dim=self.word_dim,
      mlp_dim=self.text_mlp_dim,
      train_words=self.train_words,
      kernel_init=conv2d.haiku_normal,
      pad_in_max=self.pad_in_max,
      dtype=given["dtype"],
    )
    bn = functools.partial(norm.BatchNorm, groups=self.bn_groups)
    head = functools.partial(project.Projection, norm=bn, dtype=given["dtype"])
    wide = functools.partial(head, self.embed_dim, self.hidden_dim, bn_after=True)
    if self.graph == "shared":
      self.video_head = wide()
      self.audio_head, self.text_head = head(self.embed_dim), head(self.embed_dim)
      return
    fine = self.graph == "fac"
    self.video_to_audio = wide()
    self.video_to_text = head(self.coarse_dim, bn_after=True) if fine else wide()
    self.audio_to_video, self.audio_to_text = (head(self.embed_dim) for _ in range(2))
    self.text_to_video = head(self.coarse_dim if fine else self.embed_dim)
    self.text_to_audio = head(self.embed_dim)

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    ids, mask = jnp.int32, jnp.bool_
    samples = 16 * logmel.front_end(self.front_end).hop
    shapes = {
      "video_frames": ((1, 8, 32, 32, 3), jnp.uint8),
      "video_mask": ((1, 8), mask),
      "audio_samples": ((1, samples), jnp.int16),
      "audio_mask": ((1, samples), mask),
      "narration_ids": ((1, 2, 4), ids),
      "narration_mask": ((1, 2, 4), mask),
      "text_ids": ((1, 4), ids),
      "text_mask": ((1, 4), mask),
    }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """All modalities that the batch has."""
    out = self.encode_video(batch, train=train) if "video_frames" in batch else {}
    if "audio_samples" in batch:
      out |= self.encode_audio(batch, train=train)
    if "narration_ids" in batch or "text_ids" in batch:
      out |= self.encode_text(batch, train=train)
    return out

  def encode_video(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """video_embed [B, Dt], video_embed_audio [B, Da], video_features [B, C]."""
    frames, mask = batch["video_frames"], batch["video_mask"]
    # Missing frames are black and count like others.
    black = jnp.zeros((), frames.dtype)
    frames = jnp.where(mask[..., None, None, None], frames, black)
    run = dict(train=train, where=mask.any(-1))
    features = self.video_tower(frames, **run)["features"]
    if self.graph == "shared":
      text = audio = self.video_head(features, **run)
    else:
      audio = self.video_to_audio(features, **run)
      fine = nn.relu(audio) if self.graph == "fac" else features
      text = self.video_to_text(fine, **run)
    out = {"embed": text, "embed_audio": audio, "features": features}
    return _named("video", out, run["where"])

  def encode_audio(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """audio_embed [B, Da], audio_embed_text [B, Dt], audio_features [B, C].

    In training, audio_embed_text of the fac graph needs `audio_text`.
    """
    settings = logmel.front_end(self.front_end)
    mask = batch["audio_mask"]
    sound = logmel.log_mel(batch["audio_samples"], mask, settings=settings)
    return self.encode_logmel(sound["logmel"], mask.any(-1), train=train)

  def encode_logmel(
    self, sound: jax.Array, where: jax.Array, *, train: bool = False
  ) -> dict[str, jax.Array]:
    """`encode_audio` of a log-mel spectrogram [B, F, bins] and where [B] bool."""
    run = dict(train=train, where=where)
    features = self.audio_tower(sound, **run)["features"]
    if self.graph == "shared":
      audio = text = self.audio_head(features)
    else:
      audio, text = self.audio_to_video(features), None
      if self.graph == "disjoint" or self.is_initializing():
        text = self.audio_to_text(features)
      if self.graph == "fac" and (self.audio_text or not train):
        text = self.video_to_text(nn.relu(audio), **run)
    out = {"embed": audio, "embed_text": text, "features": features}
    return _named("audio", out, where)

  def encode_text(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """text_embed, text_embed_audio: [B, K, .] of narrations, [B, .] of text_ids."""
    del train  # no layer behaves differently
    stream = "narration" if "narration_ids" in batch else "text"
    ids, mask = batch[f"{stream}_ids"], batch[f"{stream}_mask"]
    features = self.text_tower(ids, mask)
    if self.graph == "shared":
      video = audio = self.text_head(features)
    else:
      video, audio = self.text_to_video(features), self.text_to_audio(features)
    return _named("text", {"embed": video, "embed_audio": audio}, mask.any(-1))


def _named(stream, out, where):
  """The outputs that there are under their full names, 0 in rows without `stream`."""
  return {
    f"{stream}_{k}": jnp.where(where[..., None], x, 0.0)
    for k, x in out.items()
    if x is not None
  }
