"""R(2+1)D, MC3 and R3D of 18 layers by formula.

R(2+1)D-18 on 16 x 112 x 112 is 81 GFLOP, as 40.5 G multiply-adds published.
"""

import math
from typing import Any

from vlp_jax.costs import flops, towers


def count(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """The formulas of `towers.r2plus1d.R2Plus1D` on T, H, W."""
  at = towers.places(sizes, (3, 7, 7), (1, 2, 2), "torch")
  width, kind = tower.widths[0], tower.kind
  if kind == "r2plus1d":
    stem = flops.conv(math.prod(at), (1, 7, 7), channels, tower.stem_mid)
    stem += flops.conv(math.prod(at), (3, 1, 1), tower.stem_mid, width)
  else:
    stem = flops.conv(math.prod(at), (3, 7, 7), channels, width)
  out, channels = {"stem": stem}, width
  for i, (width, depth) in enumerate(zip(tower.widths, tower.depths, strict=True), 1):
    if tower.kind == "mc3":
      kind = "r3d" if i == 1 else "flat"
    cost = 0.0
    for k in range(depth):
      stride = 2 if i > 1 and not k else 1
      more, at = _block(tower, kind, at, channels, width, stride)
      cost, channels = cost + more, width
    out[f"layer{i}"] = cost
  return towers.Net(out, at, channels, channels)


def _block(tower, kind, at, channels, width, stride):
  """(FLOPs, places behind it) of a basic block."""
  middle = lambda a, b: 27 * a * b // (9 * a + 3 * b)
  first = middle(channels, width)
  second = first if tower.middles == "block" else middle(width, width)
  strides = (1 if kind == "flat" else stride, stride, stride)
  after = towers.places(at, (3, 3, 3), strides, "torch")
  spatial = math.prod((at[0], *after[1:]))  # the time of r2plus1d is strided behind it
  cost = _conv(kind, spatial, math.prod(after), channels, width, first)
  cost += _conv(kind, math.prod(after), math.prod(after), width, width, second)
  if stride > 1 or channels != width:
    cost += flops.conv(math.prod(after), (1, 1, 1), channels, width)
  return cost, after


def _conv(kind, spatial, places, channels, width, middle):
  if kind == "r2plus1d":
    space = flops.conv(spatial, (1, 3, 3), channels, middle)
    return space + flops.conv(places, (3, 1, 1), middle, width)
  window = (1, 3, 3) if kind == "flat" else (3, 3, 3)
  return flops.conv(places, window, channels, width)
