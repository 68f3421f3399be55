"""18-layer 3-D ResNets: R(2+1)D, MC3 and R3D (arXiv 1711.11248).

Takes frames [B, T, H, W, 3], uint8 or float in 0..1. Four stages of two basic blocks
at 64, 128, 256, 512; stages after the first halve T, H and W. A (2+1)-dimensional
3 x 3 x 3 convolution is 1 x 3 x 3 to M, BN, ReLU, 3 x 1 x 1, with about as many weights
as the plain one:

  M = floor(27 Ci Co / (9 Ci + 3 Co))

XDC (arXiv 1911.12667) takes Ci and Co of each convolution ("each"), torchvision those
of the first convolution of a block for both ("block"). Children are named as in the
published weights.
"""

import functools
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vlp_jax.layers import conv2d, conv3d, norm, pixels
from vlp_jax.metrics import wide

KINDS = ("r2plus1d", "mc3", "r3d")
MIDDLES = ("each", "block")


def middle(inputs: int, outputs: int) -> int:
  """M of the formula above."""
  return 27 * inputs * outputs // (9 * inputs + 3 * outputs)


class Conv(nn.Module):
  """One 3 x 3 x 3 convolution of a block, in the form of its kind.

  Attributes:
    kind: "r2plus1d", "r3d", or "flat" (1 x 3 x 3, the later stages of MC3).
    mid: M of "r2plus1d".
    strides: of T, H, W.
  """

  width: int
  kind: str
  mid: int
  strides: Sequence[int]
  norm: functools.partial
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    st, sh, sw = self.strides
    conv = functools.partial(
      conv3d.Conv3D, kernel_init=conv2d.msra_normal, dtype=self.dtype
    )
    if self.kind == "flat":
      return conv(self.width, (1, 3, 3), (1, sh, sw), name="conv")(x)
    if self.kind == "r3d":
      return conv(self.width, (3, 3, 3), (st, sh, sw), name="conv")(x)
    x = conv(self.mid, (1, 3, 3), (1, sh, sw), name="space")(x)
    x = checkpoint_name(x, conv3d.CONV)
    x = self.norm(dtype=self.dtype, name="mid_bn")(x, train=train, where=where)
    return conv(self.width, (3, 1, 1), (st, 1, 1), name="time")(nn.relu(x))


class Block(nn.Module):
  """relu(shortcut + bn2(conv2(relu(bn1(conv1(x)))))), conv1 strided."""

  width: int
  kind: str
  middles: str
  stride: int
  norm: functools.partial
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x, *, train=False, where=None):
    run, inputs = dict(train=train, where=where), x.shape[-1]
    first = middle(inputs, self.width)
    second = first if self.middles == "block" else middle(self.width, self.width)
    strides = (1 if self.kind == "flat" else self.stride, self.stride, self.stride)
    conv = functools.partial(Conv, self.width, self.kind, norm=self.norm)
    conv = functools.partial(conv, dtype=self.dtype)
    kept = functools.partial(checkpoint_name, name=conv3d.CONV)
    bn = lambda name, x: self.norm(dtype=self.dtype, name=name)(kept(x), **run)
    y = nn.relu(bn("bn1", conv(first, strides, name="conv1")(x, **run)))
    y = bn("bn2", conv(second, (1, 1, 1), name="conv2")(y, **run))
    if self.stride > 1 or inputs != self.width:
      down = conv3d.Conv3D(
        self.width,
        (1, 1, 1),
        strides,
        kernel_init=conv2d.msra_normal,
        dtype=self.dtype,
        name="downsample",
      )
      x = bn("downsample_bn", down(x))
    return nn.relu(x + y)


class R2Plus1D(nn.Module):
  """The tower.

  Attributes:
    kind: "r2plus1d"; "r3d", 3 x 3 x 3 throughout; "mc3", 3 x 3 x 3 in the first stage
      and 1 x 3 x 3 after it, where T stays.
    middles: "each" or "block", as above.
    widths, depths: of the stages; stem_mid: M of the stem of r2plus1d.
    bn_eps: 1e-3 in XDC, 1e-5 in torchvision; bn_momentum, bn_groups: see `layers.norm`.
      XDC's repository sets torch's momentum to 0.9, of which little but the last batch
      remains; 0.9 here is what the average keeps.
    remat: what runs again in the backward pass, of blocks and stem: see `towers.s3d`.
  """

  kind: str = "r2plus1d"
  middles: str = "each"
  widths: Sequence[int] = (64, 128, 256, 512)
  depths: Sequence[int] = (2, 2, 2, 2)
  stem_mid: int = 45
  bn_eps: float = 1e-3
  bn_momentum: float = 0.9
  bn_groups: int = 1
  remat: str = "none"
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
    """features [B, widths[-1]] float32, means over T, H and W.

    Args:
      frames: [B, T, H, W, 3]; where: [B] bool, rows with a clip.
      stages: also {"stem", "layer1", ...: [B, t, h, w, c]}.
    """
    if frames.ndim != 5 or frames.shape[-1] != 3:
      raise ValueError(f"frames are {frames.shape}; R(2+1)D takes [B, T, H, W, 3].")
    for name, known in (
      ("kind", KINDS),
      ("middles", MIDDLES),
      ("remat", tuple(conv3d.REMAT)),
    ):
      if getattr(self, name) not in known:
        raise ValueError(f"{name} is {getattr(self, name)!r}; give one of {known}.")
    run = dict(train=train, where=where)
    bn = functools.partial(
      norm.BatchNorm,
      momentum=self.bn_momentum,
      eps=self.bn_eps,
      groups=self.bn_groups,
      unbiased=True,
    )
    stem = functools.partial(R2Plus1D._stem, bn=bn, run=run)
    again = functools.partial(conv3d.recompute, remat=self.remat)
    x = again(stem)(self, frames)
    seen = {"stem": x}
    for i, (width, depth) in enumerate(zip(self.widths, self.depths, strict=True), 1):
      kind = self.kind
      if kind == "mc3":
        kind = "r3d" if i == 1 else "flat"
      for k in range(depth):
        stride = 2 if i > 1 and k == 0 else 1
        name = f"layer{i}_{k}"
        block = Block(width, kind, self.middles, stride, bn, self.dtype, name=name)
        x = again(lambda block, x: block(x, **run))(block, x)
      seen[f"layer{i}"] = x
    out = {"features": wide(x).mean((1, 2, 3))}
    return out | ({"stages": seen} if stages else {})

  def _stem(self, frames, *, bn, run):
    conv = functools.partial(
      conv3d.Conv3D, kernel_init=conv2d.msra_normal, dtype=self.dtype
    )

    def act(name, x):
      x = bn(dtype=self.dtype, name=name)(checkpoint_name(x, conv3d.CONV), **run)
      return nn.relu(x)

    x, width = pixels.unit(frames).astype(self.dtype), self.widths[0]
    if self.kind != "r2plus1d":
      return act("stem_bn", conv(width, (3, 7, 7), (1, 2, 2), name="stem")(x))
    x = act("stem_mid_bn", conv(self.stem_mid, (1, 7, 7), (1, 2, 2), name="stem")(x))
    return act("stem_bn", conv(width, (3, 1, 1), name="stem_time")(x))
