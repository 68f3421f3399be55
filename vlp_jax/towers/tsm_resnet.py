"""TSM-ResNet: a ResNet over frames whose blocks trade channels in time.

Takes frames [B, T, H, W, 3], uint8 or float in 0..1 (arXiv 1811.08383, as MMV and BraVe
use it: arXiv 2006.16228). Each block's residual branch sees, with n = int(C / 8),

  y[t] = (x[t + 1, C - n:], x[t, n:C - n], x[t - 1, :n])

so channels are permuted as well as shifted: published weights want that order.
"""

import functools
from collections.abc import Sequence

import einops
import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import conv3d, norm, pixels
from vlp_jax.metrics import wide
from vlp_jax.towers import resnet


def temporal_shift(
  x: jax.Array, num_frames: int, *, share: float = 0.125, time_padding: str = "zeros"
) -> jax.Array:
  """The shift above, of x [B * T, H, W, C] with T = num_frames.

  Args:
    share: of the channels that goes each way; 0 changes nothing.
    time_padding: what comes from beyond the clip, "zeros" as published, or "edge", the
      clip's own first and last frame.
  """
  n = int(x.shape[-1] * share)
  if n == 0:
    return x
  x = einops.rearrange(x, "(b t) h w c -> b t h w c", t=num_frames)
  if time_padding == "edge":
    first, last = x[:, :1], x[:, -1:]
  elif time_padding == "zeros":
    first = last = jnp.zeros_like(x[:, :1])
  else:
    raise ValueError(f"time_padding is {time_padding!r}; give 'zeros' or 'edge'.")
  later = jnp.concatenate([x[:, 1:, ..., -n:], last[..., -n:]], axis=1)
  before = jnp.concatenate([first[..., :n], x[:, :-1, ..., :n]], axis=1)
  y = jnp.concatenate([later, x[..., n:-n], before], axis=-1)
  return einops.rearrange(y, "b t h w c -> (b t) h w c")


def deflated_shift(
  x: jax.Array, *, share: float = 0.125, alpha: float = 1.0
) -> jax.Array:
  """The shift of a picture that stands still: the permutation alone.

  Args:
    alpha: factor on the two shifted groups; below 1 it stands for the zeros that come
      in at the ends of a clip (BraVe's code has 0.3).
  """
  n = int(x.shape[-1] * share)
  if n == 0:
    return x
  return jnp.concatenate(
    [alpha * x[..., -n:], x[..., n:-n], alpha * x[..., :n]], axis=-1
  )


class TSMResNet(nn.Module):
  """The tower.

  Attributes:
    width_mult: of all widths; 1 and 2 are published. depths, widths, stem_width: of
      the trunk, before this factor.
    share, time_padding: see `temporal_shift`.
    deflated: for pictures [B, 1, H, W, 3]: `deflated_shift` with `alpha`.
    bn_eps, bn_momentum, bn_groups: see `layers.norm`; remat: see `towers.s3d`.
  """

  width_mult: int = 1
  depths: Sequence[int] = resnet.DEPTHS
  widths: Sequence[int] = resnet.WIDTHS
  stem_width: int = 64
  share: float = 0.125
  time_padding: str = "zeros"
  deflated: bool = False
  alpha: float = 1.0
  bn_eps: float = 1e-5
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
  ) -> dict[str, jax.Array]:
    """features [B, D] float32, means over T, H and W.

    Args:
      frames: [B, T, H, W, 3]; where: [B] bool, rows with a clip.
    Raises: ValueError for frames that are not 5-D, or several of a picture.
    """
    if frames.ndim != 5 or (self.deflated and frames.shape[1] != 1):
      raise ValueError(
        f"frames are {frames.shape}; expected [B, T, H, W, 3], T = 1 when deflated."
      )
    if self.remat not in conv3d.REMAT:
      raise ValueError(f"remat is {self.remat!r}; give one of {list(conv3d.REMAT)}.")
    rows, length = frames.shape[:2]
    x = pixels.unit(frames).astype(self.dtype)
    x = einops.rearrange(x, "b t h w c -> (b t) h w c")
    if self.deflated:
      mix = functools.partial(deflated_shift, share=self.share, alpha=self.alpha)
    else:
      mix = functools.partial(
        temporal_shift,
        num_frames=length,
        share=self.share,
        time_padding=self.time_padding,
      )
    trunk = resnet.ResNetV2(
      self.depths,
      [w * self.width_mult for w in self.widths],
      self.stem_width * self.width_mult,
      mix=mix,
      norm=functools.partial(
        norm.BatchNorm,
        momentum=self.bn_momentum,
        eps=self.bn_eps,
        groups=self.bn_groups,
      ),
      remat=self.remat,
      dtype=self.dtype,
      name="trunk",
    )
    where = None if where is None else jnp.repeat(where, length)
    y = wide(trunk(x, train=train, where=where)["map"]).mean((1, 2))
    return {"features": y.reshape(rows, length, -1).mean(1)}
