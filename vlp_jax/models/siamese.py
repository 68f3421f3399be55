"""One tower with a projector: SimCLR, MoCo, BYOL, deep clustering.

Reads:   what its tower takes: image_pixels [B, H, W, 3], image_mask [B]; video_frames
         [B, T, H, W, 3], video_mask [B, T]; or audio_samples, audio_mask [B, S]. Towers
         of pictures also take clips of one frame (video_frames) where there is no
         image_pixels. Without a mask all rows are real.
Returns: <stream>_features [B, C] for probes, <stream> being image, video or audio;
         projection [B, D]; prediction [B, D] with a predictor;
         <stream>_by_<stream>_logits [B, K] with `clusters` (`objectives.cluster:sdc`).
         Rows that are not real are 0 and in no batch statistics.

`project` leaves the predictor out, which a teacher does not have. Views are made by the
objective (`objectives.simclr`, `.moco`, `.byol`); pixels in 0..1 and samples in -1..1
are taken as floats.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax import resolve
from vlp_jax.heads import mlp
from vlp_jax.layers import dense, fields, logmel, norm
from vlp_jax.towers import (
  audio_resnet,
  image_resnet,
  r2plus1d,
  s3d,
  spectrogram,
  tsm_resnet,
)

# name -> (stream, class, what it is given below tower_args)
TOWERS = {
  "resnet": ("image", image_resnet.ImageResNet, {}),
  "tsm_resnet": ("video", tsm_resnet.TSMResNet, {}),
  "s3d": ("video", s3d.S3D, s3d.MMV),
  "r2plus1d": ("video", r2plus1d.R2Plus1D, dict(middles="block", bn_eps=1e-5)),
  "audio_resnet": ("audio", audio_resnet.AudioResNet, {}),
  "audio_resnet18": ("audio", audio_resnet.AudioResNet18, {}),
  "spectrogram": ("audio", spectrogram.Spectrogram, {}),
}
_IMAGENET = dict(mean=image_resnet.MEAN, std=image_resnet.STD)
SIMCLR = dict(
  projector=dict(dim=128, depth=2, hidden_bias=False, last_bn=True),
  tower_args=dict(zero_last=True),
)
MOCO_V1 = dict(
  projector=dict(dim=128, depth=1, last_bias=True),
  tower_args=dict(bn_unbiased=True, **_IMAGENET),
)
MOCO_V2 = MOCO_V1 | dict(
  projector=dict(dim=128, depth=2, hidden_bn=False, last_bias=True)
)
BYOL = dict(
  projector=dict(dim=256, depth=2, hidden=4096),
  predictor=dict(dim=256, depth=2, hidden=4096),
  tower_args=dict(zero_last=True, **_IMAGENET),
)
MU = dict(  # for tests and laptops: two narrow stages, the same code
  projector=dict(dim=8, depth=2, hidden=16),
  predictor=dict(dim=8, depth=2, hidden=16),
  tower_args=dict(depths=(1, 1), widths=(16, 32), stem_width=8),
)
SMALL = dict(  # minutes on a laptop: pictures of about 64 x 64
  projector=dict(dim=64, depth=2, hidden=256),
  predictor=dict(dim=64, depth=2, hidden=256),
  tower_args=dict(depths=(1, 1, 1), widths=(32, 64, 128), stem_width=16),
)
WORD = dict(  # minutes on a laptop: one word of at most a second, at 8 kHz
  tower="audio_resnet",
  tower_args=dict(depths=(1,), widths=(64,), stem_width=24, pool="parts"),
  projector=dict(dim=128, depth=2, hidden=128, last_bias=True),
  front_end="speech8k",
  normalise="bins",
)
VARIANTS = {
  "mu": MU,
  "small": SMALL,
  "word": WORD,
  "simclr_r50": SIMCLR,
  "moco_v1": MOCO_V1,
  "moco_v2": MOCO_V2,
  "byol_r50": BYOL,
}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    tower: a name of `TOWERS`; tower_args: its keywords.
    projector, predictor: keywords of `heads.mlp.Mlp`; an empty predictor is none.
    clusters: K of a linear head on the features, normalised over the batch; 0 for none.
    front_end, normalise: of `layers.logmel`, for sound; it must have the sampling rate
      of the former.
    bn_groups: see `layers.norm`; of the tower and both heads.
    dtype: of the computation, "float32" or "bfloat16".
  """

  tower: Literal[*TOWERS] = "resnet"
  tower_args: Mapping = dataclasses.field(default_factory=dict)
  projector: Mapping = dataclasses.field(default_factory=lambda: dict(dim=128))
  predictor: Mapping = dataclasses.field(default_factory=dict)
  clusters: int = 0
  front_end: fields.FrontEnd = "mmv"
  normalise: fields.Norm = "none"
  bn_groups: fields.Count = 1
  dtype: fields.Dtype = "float32"

  def setup(self):
    if self.tower not in TOWERS:
      raise ValueError(f"tower is {self.tower!r}; give one of {tuple(TOWERS)}.")
    _, cls, own = TOWERS[self.tower]
    given = dict(dtype=jnp.dtype(self.dtype))
    own = dict(own) | dict(self.tower_args) | given | dict(bn_groups=self.bn_groups)
    self.encoder = resolve.bind(cls, own, what="model.tower_args")()
    given["norm"] = functools.partial(norm.BatchNorm, groups=self.bn_groups)
    make = lambda name: resolve.bind(
      mlp.Mlp, dict(getattr(self, name)) | given, what=f"model.{name}"
    )()
    self.project_head = make("projector")
    self.predict_head = make("predictor") if self.predictor else None
    if self.clusters:
      stream = TOWERS[self.tower][0]
      self.cluster_norm = given["norm"](dtype=given["dtype"])
      # Named and begun as those of `models.xdc`, since rounds start them anew.
      self.cluster_heads = {
        f"{stream}_by_{stream}": dense.Linear(
          self.clusters,
          ("embed", None),
          dtype=self.dtype,
          out_dtype="float32",
          kernel_init=nn.initializers.normal(0.01),
        )
      }

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    stream, mask = TOWERS[self.tower][0], jnp.bool_
    if stream == "audio":
      samples = 16 * logmel.front_end(self.front_end).hop
      shapes = {
        "audio_samples": ((1, samples), jnp.int16),
        "audio_mask": ((1, samples), mask),
      }
    elif stream == "video":
      shapes = {
        "video_frames": ((1, 8, 32, 32, 3), jnp.uint8),
        "video_mask": ((1, 8), mask),
      }
    else:
      shapes = {
        "image_pixels": ((1, 32, 32, 3), jnp.uint8),
        "image_mask": ((1,), mask),
      }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """Features, projection, and what the model's further heads give."""
    out, where = self._project(batch, train)
    if self.predict_head is not None:
      y = self.predict_head(out["projection"], train=train, where=where)
      out["prediction"] = jnp.where(where[:, None], y, 0.0)
    for name, head in self.cluster_heads.items() if self.clusters else ():
      features = out[f"{TOWERS[self.tower][0]}_features"]
      y = head(self.cluster_norm(features, train=train, where=where))
      out[f"{name}_logits"] = jnp.where(where[:, None], y, 0.0)
    return out

  def project(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """The same without the predictor."""
    return self._project(batch, train)[0]

  def encode(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """<stream>_features alone, for probes."""
    return self._encode(batch, train)[0]

  def _project(self, batch, train):
    out, where = self._encode(batch, train)
    (features,) = out.values()
    y = self.project_head(features, train=train, where=where)
    return out | {"projection": jnp.where(where[:, None], y, 0.0)}, where

  def _encode(self, batch, train):
    """({<stream>_features}, where [B]: rows that are real)."""
    stream = TOWERS[self.tower][0]
    x, mask, more = self._input(batch, stream)
    where = jnp.ones(len(x), bool) if mask is None else mask.reshape(len(x), -1).any(1)
    features = self.encoder(x, train=train, where=where, **more)["features"]
    return {f"{stream}_features": jnp.where(where[:, None], features, 0.0)}, where

  def _input(self, batch, stream):
    """(what the tower reads, missing frames and samples zero; its mask; keywords)."""
    if stream == "image" and "image_pixels" in batch:
      return batch["image_pixels"], batch.get("image_mask"), {}
    if stream == "audio":
      samples, mask = batch["audio_samples"], batch.get("audio_mask")
      settings = logmel.front_end(self.front_end)
      out = logmel.log_mel(samples, mask, settings=settings)
      x = logmel.normalise(out["logmel"], out["mask"], self.normalise)
      return x, mask, {"frames": out["mask"]}
    if "video_frames" not in batch:
      raise KeyError(f"tower {self.tower!r} finds no {stream} in {sorted(batch)}.")
    frames, mask = batch["video_frames"], batch.get("video_mask")
    if mask is not None:
      black = jnp.zeros((), frames.dtype)
      frames = jnp.where(mask[..., None, None, None], frames, black)
    if stream == "video":
      return frames, mask, {}
    if frames.shape[1] != 1:
      raise ValueError(
        f"tower {self.tower!r} takes pictures: video_frames have {frames.shape[1]} "
        "frames; set input.num_frames=1, or take a tower of clips."
      )
    return frames[:, 0], mask, {}
