"""Plain towers by formula: stacks of 3 x 3 convolutions, as L3-Net's and AVTS's sound
VGG, and no network at all.
"""

import math
from typing import Any

from vlp_jax.costs import flops, towers


def l3(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """`towers.l3.L3`: two convolutions a block, 2 x 2 pools between the blocks."""
  depths = [2] * len(tower.widths)
  return _blocks(sizes, channels, tower.widths, depths, tower.first_stride)


def vgg(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """`towers.audio_vgg.AudioVGG` with its dense layer."""
  net = _blocks(sizes, channels, tower.widths, tower.depths, 1)
  net.parts["fc"] = flops.linear(1, net.width, tower.fc_dim)
  return net._replace(features=tower.fc_dim)


def spectrogram(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """`towers.spectrogram`: means over stretches of time, as a product."""
  frames, bins = sizes
  parts = {"means": flops.linear(tower.parts, frames, bins)}
  return towers.Net(parts, (tower.parts, bins), channels, tower.parts * bins)


def _blocks(at, channels, widths, depths, first_stride):
  out = {}
  for i, (width, depth) in enumerate(zip(widths, depths, strict=True)):
    if i:
      at = towers.places(at, (2, 2), (2, 2), "valid")
    cost = 0.0
    for k in range(depth):
      stride = first_stride if i == k == 0 else 1
      at = towers.places(at, (3, 3), (stride,) * 2, "tf")
      cost += flops.conv(math.prod(at), (3, 3), channels, width)
      channels = width
    out[f"conv{i + 1}"] = cost
  return towers.Net(out, at, channels, channels)
