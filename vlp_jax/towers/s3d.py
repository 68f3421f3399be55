"""S3D-G: separable 3-D Inception with self-gating (arXiv 1712.04851, 1912.06430).

Takes frames [B, T, H, W, 3], uint8 or float in 0..1, with no mean or deviation taken
off. All sizes are data: `STAGES` below is the published net, a preset is another list.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv2d, conv3d, norm, pixels
from vlp_jax.metrics import wide

# (name, kind, numbers): pool (window, strides); point and separable (width); gate;
# inception (b0, b1a, b1b, b2a, b2b, b3b).
STAGES = (
  ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
  ("conv_2b", "point", 64),
  ("conv_2c", "separable", 192),
  ("gating", "gate"),
  ("maxpool_3a", "pool", (1, 3, 3), (1, 2, 2)),
  ("mixed_3b", "inception", 64, 96, 128, 16, 32, 32),
  ("mixed_3c", "inception", 128, 128, 192, 32, 96, 64),
  ("maxpool_4a", "pool", (3, 3, 3), (2, 2, 2)),
  ("mixed_4b", "inception", 192, 96, 208, 16, 48, 64),
  ("mixed_4c", "inception", 160, 112, 224, 24, 64, 64),
  ("mixed_4d", "inception", 128, 128, 256, 24, 64, 64),
  ("mixed_4e", "inception", 112, 144, 288, 32, 64, 64),
  ("mixed_4f", "inception", 256, 160, 320, 32, 128, 128),
  ("maxpool_5a", "pool", (2, 2, 2), (2, 2, 2)),
  ("mixed_5b", "inception", 256, 160, 320, 32, 128, 128),
  ("mixed_5c", "inception", 384, 192, 384, 48, 128, 128),
)


# What MMV's network differs in; its stem is folded, or plain by PLAIN_7.
MMV = dict(
  embed_dim=0, stem_padding="tf", pool_padding="tf", bn_unbiased=False, initial="haiku"
)
PLAIN_7 = dict(space_to_depth=(), stem_window=(7, 7, 7), stem_strides=(2, 2, 2))
# Minutes on a laptop, at 64 x 64 pixels.
SMALL = dict(
  space_to_depth=(2, 4, 4),
  stem_width=24,
  stem_window=(1, 2, 2),
  stages=(
    ("conv_2b", "point", 24),
    ("conv_2c", "separable", 48),
    ("gating", "gate"),
    ("maxpool_3a", "pool", (1, 3, 3), (1, 2, 2)),
    ("mixed_3b", "inception", 24, 32, 48, 8, 16, 16),
    ("maxpool_4a", "pool", (3, 3, 3), (2, 2, 2)),
    ("mixed_4b", "inception", 64, 64, 128, 16, 32, 32),
  ),
)
INITS = {"torch": conv3d.torch_uniform, "haiku": conv2d.haiku_normal}


class Inception(nn.Module):
  """Four branches, each with its own gate if `gated`, concatenated (b0, b1, b2, b3).

  b0 is 1 x 1 x 1; b1 and b2 are 1 x 1 x 1, then separable 3 x 3 x 3; b3 is a max-pool
  of 3 x 3 x 3, then 1 x 1 x 1. `conv` is a ConvBN with its settings, `deep` the
  separable one.
  """

  widths: Sequence[int]
  conv: functools.partial
  deep: functools.partial
  gated: bool = True

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    b0, b1a, b1b, b2a, b2b, b3b = self.widths
    conv, deep, run = self.conv, self.deep, dict(train=train, where=where)
    pooled = conv3d.max_pool(x, (3, 3, 3), (1, 1, 1), "tf")  # stride 1: both agree
    branches = (
      conv(b0, name="conv_b0")(x, **run),
      deep(b1b, name="conv_b1_b")(conv(b1a, name="conv_b1_a")(x, **run), **run),
      deep(b2b, name="conv_b2_b")(conv(b2a, name="conv_b2_a")(x, **run), **run),
      conv(b3b, name="conv_b3_b")(pooled, **run),
    )
    if not self.gated:
      return jnp.concatenate(branches, axis=-1)
    given = conv.keywords["dtype"], conv.keywords["kernel_init"]
    gates = [
      conv3d.SelfGating(*given, name=f"gating_b{i}") for i in range(len(branches))
    ]
    return jnp.concatenate(
      [gate(y) for gate, y in zip(gates, branches, strict=True)], axis=-1
    )


class S3D(nn.Module):
  """The tower. Paper and code differ in the stem: both are here, by numbers.

  The released weights fold blocks of 2 x 2 x 2 pixels into channels, convolve them by
  2 x 4 x 4 with stride 1, and drop the first index of T, H, W after the ReLU, where an
  even kernel with k // 2 of padding gives one too many. The training repository uses a
  plain 3 x 7 x 7 convolution with stride 2: `space_to_depth=(), stem_window=(3, 7, 7),
  stem_strides=(2, 2, 2)`.

  MMV (arXiv 2006.16228) has the folded stem with SAME padding, so that no index is
  dropped, or a plain 7 x 7 x 7 one, SAME pools, the biased running variance and Haiku's
  initial values: `stem_padding=pool_padding="tf", bn_unbiased=False, initial="haiku"`.

  Attributes:
    embed_dim: width of `embed`; 0 leaves the last layer out.
    stem_padding: "torch" or "tf", as above.
    pool_padding: "torch" for the published .pth, "tf" for weights of TensorFlow.
    bn_groups: BatchNorm statistics over runs of B / bn_groups rows; 1 is global.
    bn_unbiased: of the running variance, as in torch.
    initial: values of kernels, "torch" or "haiku".
    time_padding: before and after a clip, "zeros" as published, or "edge".
    separable, gated, bn_scale: False for whole kernels of t x h x w, without gates
      (stages "gate" are passed over), for norms without scale: see `towers.i3d`.
    remat: "none", "dots" (results of convolutions are kept; norms, gates and pools run
      again) or "full" (only the stages' inputs are kept).
    deflated: the same network for pictures [B, 1, H, W, 3]: every kernel one step
      long, blocks of one frame. `importers.deflate` makes its parameters.
  """

  embed_dim: int = 512
  stem_width: int = 64
  space_to_depth: Sequence[int] = (2, 2, 2)
  stem_window: Sequence[int] = (2, 4, 4)
  stem_strides: Sequence[int] = (1, 1, 1)
  stem_padding: str = "torch"
  stages: Sequence[Sequence] = STAGES
  pool_padding: str = "torch"
  bn_eps: float = 1e-5
  bn_momentum: float = 0.9
  bn_groups: int = 1
  bn_unbiased: bool = True
  initial: str = "torch"
  time_padding: str = "zeros"
  separable: bool = True
  gated: bool = True
  bn_scale: bool = True
  remat: str = "none"
  deflated: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    frames: jax.Array,
    *,
    train: bool = False,
    where: jax.Array | None = None,
    stages: bool = False,
  ) -> dict[str, jax.Array]:
    """Embeds clips.

    Args:
      frames: [B, T, H, W, 3] uint8, or float in 0..1.
      where: [B] bool, rows with a clip; the others stay out of all batch statistics.
      stages: whether to hand back the activations of every stage too.
    Returns: features [B, C] (mean of the last stage), embed [B, embed_dim]; both
      float32; with `stages` also {stage name: [B, t, h, w, c]}, the stem as "conv1"
      before its first indices are dropped.
    Raises: ValueError for clips that are not 5-D or do not divide into blocks.
    """
    if frames.ndim != 5 or frames.shape[-1] != 3:
      raise ValueError(f"frames are {frames.shape}; the tower takes [B, T, H, W, 3].")
    if self.deflated and frames.shape[1] != 1:
      raise ValueError(f"{frames.shape[1]} frames; a deflated S3D takes T = 1.")
    for name, known in (
      ("initial", INITS),
      ("stem_padding", ("torch", "tf")),
      ("remat", conv3d.REMAT),
    ):
      if getattr(self, name) not in known:
        raise ValueError(f"{name} is {getattr(self, name)!r}; give {list(known)}.")
    bn = functools.partial(
      norm.BatchNorm,
      momentum=self.bn_momentum,
      eps=self.bn_eps,
      groups=self.bn_groups,
      unbiased=self.bn_unbiased,
      gain=self.bn_scale,
    )
    run, init = dict(train=train, where=where), INITS[self.initial]
    again = functools.partial(self._again, run=run)
    conv = functools.partial(
      conv3d.ConvBN,
      norm=bn,
      kernel_init=init,
      time_padding=self.time_padding,
      dtype=self.dtype,
    )
    window = (1 if self.deflated else 3, 3, 3)
    deep = functools.partial(conv, window=window, separable=self.separable)
    x = self._stem(frames, conv, again)
    seen = {"conv1": x}
    if self.space_to_depth and self.stem_padding == "torch":
      # Even kernels give one too many; a deflated one is odd in time.
      t, h, w = (1 - k % 2 for k in self.stem_window)
      x = x[:, 0 if self.deflated else t :, h:, w:]
    for name, kind, *numbers in self.stages:
      if kind == "pool":
        x = self._pool(x, *numbers)
      elif kind == "gate" and not self.gated:
        continue
      elif kind == "gate":
        x = again(conv3d.SelfGating(self.dtype, init, name=name), x, run={})
      elif kind == "point":
        x = again(conv(*numbers, name=name), x)
      elif kind == "separable":
        x = again(deep(*numbers, name=name), x)
      elif kind == "inception":
        x = again(Inception(numbers, conv, deep, self.gated, name=name), x)
      else:
        raise ValueError(
          f"stage {name!r} is {kind!r}; known: pool, gate, point, separable, inception."
        )
      seen[name] = x
    features = wide(x).mean((1, 2, 3))
    out = {"features": features, **({"stages": seen} if stages else {})}
    if self.embed_dim:
      out["embed"] = nn.Dense(self.embed_dim, kernel_init=init, name="fc")(features)
    return out

  def _again(self, layer, x, *, run):
    """layer(x), computed again in the backward pass if `remat` says so."""
    call = lambda layer, x: layer(x, **run)
    return conv3d.recompute(call, self.remat)(layer, x)

  def _pool(self, x, window, strides):
    pool = lambda x: conv3d.max_pool(x, window, strides, self.pool_padding)
    return (pool if self.remat == "none" else jax.checkpoint(pool))(x)

  def _stem(self, frames, conv, again):
    """Pixels in blocks if asked, and the first convolution."""
    block, window, strides = self.space_to_depth, self.stem_window, self.stem_strides
    if self.deflated:
      block, window, strides = (1, *block[1:]), (1, *window[1:]), (1, *strides[1:])
    x = conv3d.space_to_depth(frames, block) if self.space_to_depth else frames
    padding = None
    if self.stem_padding == "tf":
      padding = [
        conv2d.pads(n, k, s, "tf")
        for n, k, s in zip(x.shape[1:4], window, strides, strict=True)
      ]
    x = pixels.unit(x).astype(self.dtype)
    return again(conv(self.stem_width, window, strides, padding, name="conv1"), x)
