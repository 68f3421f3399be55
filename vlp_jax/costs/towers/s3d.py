"""S3D-G by formula.

At 32 x 224 x 224 the tower is 74.2 GFLOP a clip, of which the stem (17 x 113 x 113
places, one of each axis dropped behind the ReLU) is 21.3.
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
    out[name], channels = _stage(kind, numbers, math.prod(at), channels, deep)
  if tower.embed_dim:
    out["fc"] = flops.linear(1, channels, tower.embed_dim)
  return towers.Net(out, at, channels, channels)


def _stage(kind, numbers, places, width, window) -> tuple[float, int]:
  """(FLOPs, channels that come out) of one stage."""
  if kind == "gate":
    return flops.linear(1, width, width), width
  if kind == "point":
    return flops.conv(places, (1,), width, numbers[0]), numbers[0]
  if kind == "separable":
    return flops.separable(places, window, width, numbers[0]), numbers[0]
  b0, b1a, b1b, b2a, b2b, b3b = numbers
  cost = flops.conv(places, (1,), width, b0 + b1a + b2a + b3b)
  cost += flops.separable(places, window, b1a, b1b)
  cost += flops.separable(places, window, b2a, b2b)
  branches = (b0, b1b, b2b, b3b)
  return cost + sum(flops.linear(1, b, b) for b in branches), sum(branches)
