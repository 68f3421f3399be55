"""S3D-G and I3D by formula.

At 32 x 224 x 224 the tower is 74.2 GFLOP a clip, of which the stem (17 x 113 x 113
places, one of each axis dropped behind the ReLU) is 21.3. I3D, whose kernels are whole,
is 111.2 GFLOP.
"""

import math
from typing import Any

from vlp_jax.costs import flops, towers


def count(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """The formulas of `towers.s3d.S3D` on T, H, W."""
  block, window = tower.space_to_depth, tower.stem_window
  strides, out = tower.stem_strides, {}
  if tower.deflated:
    block, window, strides = (1, *block[1:]), (1, *window[1:]), (1, *strides[1:])
  if tower.space_to_depth:
    sizes = [n // k for n, k in zip(sizes, block, strict=True)]
    channels *= math.prod(block)
  at = towers.places(sizes, window, strides, tower.stem_padding)
  out["stem"] = flops.conv(math.prod(at), window, channels, tower.stem_width)
  if tower.space_to_depth and tower.stem_padding == "torch":
    # Even windows give one place too many, dropped.
    at = tuple(n - (1 - k % 2) for n, k in zip(at, window, strict=True))
  channels, deep = tower.stem_width, (1 if tower.deflated else 3, 3, 3)
  for name, kind, *numbers in tower.stages:
    if kind == "pool":
      at = tuple(-(-n // s) for n, s in zip(at, numbers[1], strict=True))
      continue
    if kind == "gate" and not tower.gated:
      continue
    how = dict(deep=_deep(tower, deep), gated=tower.gated)
    out[name], channels = _stage(kind, numbers, math.prod(at), channels, **how)
  if tower.embed_dim:
    out["fc"] = flops.linear(1, channels, tower.embed_dim)
  return towers.Net(out, at, channels, channels)


def _deep(tower, window):
  """(places, width, features) -> FLOPs of a convolution in space and time."""
  count = flops.separable if tower.separable else flops.conv
  return lambda places, width, features: count(places, window, width, features)


def _stage(kind, numbers, places, width, *, deep, gated) -> tuple[float, int]:
  """(FLOPs, channels that come out) of one stage."""
  if kind == "gate":
    return flops.linear(1, width, width), width
  if kind == "point":
    return flops.conv(places, (1,), width, numbers[0]), numbers[0]
  if kind == "separable":
    return deep(places, width, numbers[0]), numbers[0]
  b0, b1a, b1b, b2a, b2b, b3b = numbers
  cost = flops.conv(places, (1,), width, b0 + b1a + b2a + b3b)
  cost += deep(places, b1a, b1b) + deep(places, b2a, b2b)
  branches = (b0, b1b, b2b, b3b)
  gates = sum(flops.linear(1, b, b) for b in branches) if gated else 0
  return cost + gates, sum(branches)
