"""A classifier: one tower, dropout, one linear layer.

Fine-tuning of a pretrained tower, and training of one with labels from scratch.

Reads:   of the tower's stream, audio_samples, audio_mask [B, S]; video_frames
         [B, T, H, W, 3], video_mask [B, T], or with windows [B, N, T, H, W, 3] and
         [B, N, T]; or image_pixels [B, H, W, 3].
Returns: logits [B, K] and <stream>_features [B, D] of the tower, float32, with windows
         [B, N, K] and [B, N, D]; logits_mask [B] or [B, N] bool, rows with anything to
         classify (of the others the features are 0).

The tower is called <stream>_tower, as in the pretrained models, so that
`init_from = dict(path=..., only="video_tower")` takes its weights from any of them.
"""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax import resolve
from vlp_jax.layers import dropout, fields, logmel
from vlp_jax.metrics import wide
from vlp_jax.towers import audio_resnet, l3, r2plus1d, s3d, tsm_resnet

STREAMS = ("audio", "video", "image")
# name -> (class, stream, keywords under tower_args)
TOWERS = {
  "audio_resnet": (audio_resnet.AudioResNet, "audio", {}),
  "audio_resnet18": (audio_resnet.AudioResNet18, "audio", {}),
  "l3": (l3.L3, "audio", {}),
  "r2plus1d": (r2plus1d.R2Plus1D, "video", {}),
  "s3d": (s3d.S3D, "video", dict(embed_dim=0)),
  "tsm_resnet": (tsm_resnet.TSMResNet, "video", {}),
}
VARIANTS = {
  "mu": dict(
    front_end="mmv16k",
    normalise="example",
    tower_args=dict(depths=(1, 1), widths=(8, 16), stem_width=4, pool="time"),
  ),
  # Minutes on a laptop: words and sounds of a second at 16 kHz.
  "small": dict(
    front_end="mmv16k",
    normalise="example",
    dropout=0.3,
    tower_args=dict(
      depths=(1, 1, 1), widths=(64, 128, 256), stem_width=24, pool="time"
    ),
  ),
  # Seconds on a laptop: one word of at most a second, at 8 kHz.
  "word": dict(
    front_end="speech8k",
    normalise="bins",
    dropout=0.3,
    tower_args=dict(depths=(1, 1), widths=(64, 128), stem_width=24, pool="parts"),
  ),
  "audio_resnet50": {},
  "audio_resnet18": dict(tower="audio_resnet18", front_end="xdc"),
  "l3": dict(tower="l3", front_end="l3"),
  "r2plus1d": dict(tower="r2plus1d", tower_args=dict(middles="block", bn_eps=1e-5)),
  "r2plus1d_xdc": dict(tower="r2plus1d"),
  "s3d": dict(tower="s3d", tower_args=s3d.MMV),
  "tsm_resnet": dict(tower="tsm_resnet"),
}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    num_classes: K.
    tower: a name of `TOWERS`, or "file:Class" of `vlp_jax/towers` with `stream`: what
      returns a dict with `features` [B, D].
    tower_args: its keywords.
    stream: what the tower sees: "audio", "video" or "image"; "" is the usual one. A
      video tower reads images as clips of one frame.
    dropout: before the linear layer.
    front_end: of `layers.logmel`, for sound, which must have its sampling rate.
    normalise: of the log-mel spectrogram, see `logmel.normalise`.
    remat: "none", or what the tower knows, see `towers.r2plus1d`.
    dtype: of the tower, "float32" or "bfloat16".
  """

  num_classes: fields.Count
  tower: str = "audio_resnet"
  tower_args: Mapping = dataclasses.field(default_factory=dict)
  stream: str = ""
  dropout: fields.Rate = 0.0
  front_end: fields.FrontEnd = "mmv"
  normalise: fields.Norm = "none"
  remat: str = "none"
  dtype: fields.Dtype = "float32"

  def setup(self):
    stream = self.sees
    if ":" in self.tower:
      cls, own = resolve.function("vlp_jax.towers", self.tower), {}
    else:
      cls, _, own = TOWERS[self.tower]
    if self.normalise not in logmel.NORMS:
      raise ValueError(f"normalise is {self.normalise!r}; give one of {logmel.NORMS}.")
    own = own | dict(self.tower_args) | dict(dtype=jnp.dtype(self.dtype))
    if self.remat != "none":
      own["remat"] = self.remat
    tower = resolve.bind(cls, own, what="model.tower_args")()
    setattr(self, f"{stream}_tower", tower)
    init = nn.initializers.normal(0.01)  # as torch's fine-tuning recipes, near zero
    self.classifier = nn.Dense(self.num_classes, kernel_init=init)
    self.drop = dropout.Dropout(self.dropout)

  @property
  def sees(self) -> str:
    """The stream that is read. Raises: ValueError for an unknown tower or stream."""
    if ":" not in self.tower and self.tower not in TOWERS:
      raise ValueError(f"no tower {self.tower!r}.{resolve.nearest(self.tower, TOWERS)}")
    stream = self.stream or TOWERS.get(self.tower, (None, "", None))[1]
    if stream not in STREAMS:
      raise ValueError(f"stream is {stream!r}; give one of {STREAMS}.")
    return stream

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model can read, at the least sizes."""
    if self.sees == "audio":
      samples = 16 * logmel.front_end(self.front_end).hop
      shapes = {
        "audio_samples": ((1, samples), jnp.int16),
        "audio_mask": ((1, samples), jnp.bool_),
      }
    elif self.sees == "video":
      shapes = {
        "video_frames": ((1, 8, 32, 32, 3), jnp.uint8),
        "video_mask": ((1, 8), jnp.bool_),
      }
    else:
      shapes = {
        "image_pixels": ((1, 32, 32, 3), jnp.uint8),
        "image_mask": ((1,), jnp.bool_),
      }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    read = {"audio": self._sound, "video": self._clips, "image": self._image}
    x, where, more = read[self.sees](batch)  # [B * N, ...], [B] or [B, N]
    tower = getattr(self, f"{self.sees}_tower")
    out = tower(x, train=train, where=where.reshape(-1), **more)
    features = out["features"]
    features = wide(features).reshape(*where.shape, -1)
    features = jnp.where(where[..., None], features, 0.0)
    logits = wide(self.classifier(self.drop(features, train=train)))
    return {
      "logits": logits,
      "logits_mask": where,
      f"{self.sees}_features": features,
    }

  def _sound(self, batch):
    """([B, F, bins] log-mel, or turned for L3, [B], keywords of the tower)."""
    mask, settings = batch["audio_mask"], logmel.front_end(self.front_end)
    out = logmel.log_mel(batch["audio_samples"], mask, settings=settings)
    x = logmel.normalise(out["logmel"], out["mask"], self.normalise)
    if self.tower == "l3":
      return x.swapaxes(1, 2)[..., None], mask.any(-1), {}
    return x, mask.any(-1), {"frames": out["mask"]}

  def _clips(self, batch):
    """([B * N, T, H, W, 3], [B] or [B, N], {}); missing frames are black."""
    frames, mask = batch["video_frames"], batch["video_mask"]
    black = jnp.zeros((), frames.dtype)
    frames = jnp.where(mask[..., None, None, None], frames, black)
    return frames.reshape(-1, *frames.shape[-4:]), mask.any(-1), {}

  def _image(self, batch):
    """([B, H, W, 3], or clips of one frame for a video tower, [B], {})."""
    pixels = batch["image_pixels"]
    mask = batch.get("image_mask", jnp.ones(len(pixels), bool))
    video = TOWERS.get(self.tower, (None, "", None))[1] == "video"
    return (pixels[:, None] if video else pixels), mask, {}
