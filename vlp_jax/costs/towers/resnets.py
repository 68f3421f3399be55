"""ResNets over pictures, frames and spectrograms by formula.

ResNet-50 on 224 x 224 is 8.17 GFLOP, TSM-ResNet-50 on 32 such frames 262, and 1,031 at
twice the width. At 200 x 200 it is 224 and 883: in proportion to the area it would be
209 and 822, but the maps are rounded up, to 13 x 13 and 7 x 7.
"""

import math
from collections.abc import Sequence
from typing import Any

from vlp_jax.costs import flops, towers


def _bottlenecks(
  sizes: Sequence[int],
  channels: int,
  stem: int,
  depths: Sequence[int],
  widths: Sequence[int],
  *,
  padding: str,
  always: bool,
) -> towers.Net:
  """7 x 7 / 2, max-pool 3 x 3 / 2, stages of bottlenecks with the stride in the 3 x 3.

  Args:
    always: whether the first block of a stage has its shortcut convolved although the
      shapes agree (the pre-activation form).
  """
  at = towers.places(sizes, (7, 7), (2, 2), padding)
  out = {"stem": flops.conv(math.prod(at), (7, 7), channels, stem)}
  at, channels = towers.places(at, (3, 3), (2, 2), padding), stem
  for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
    cost, inner = 0.0, width // 4
    for k in range(depth):
      stride = 2 if i and not k else 1
      before, at = math.prod(at), towers.places(at, (3, 3), (stride,) * 2, padding)
      after = math.prod(at)
      cost += flops.conv(before, (1, 1), channels, inner)
      cost += flops.conv(after, (3, 3), inner, inner)
      cost += flops.conv(after, (1, 1), inner, width)
      if (always and not k) or stride > 1 or channels != width:
        cost += flops.conv(after, (1, 1), channels, width)
      channels = width
    out[f"stage{i + 1}"] = cost
  return towers.Net(out, at, channels, channels)


def tsm(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """`towers.tsm_resnet` on T, H, W: a ResNet on each frame; shifts are moves."""
  frames, wide = sizes[0], tower.width_mult
  one = _bottlenecks(
    sizes[1:],
    channels,
    tower.stem_width * wide,
    tower.depths,
    [w * wide for w in tower.widths],
    padding="tf",
    always=True,
  )
  parts = {k: frames * x for k, x in one.parts.items()}
  return one._replace(parts=parts, places=(frames, *one.places))


def image(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """`towers.image_resnet` on H, W."""
  wide = tower.width_mult
  return _bottlenecks(
    sizes,
    channels,
    tower.stem_width * wide,
    tower.depths,
    [w * wide for w in tower.widths],
    padding=tower.padding,
    always=False,
  )


def audio(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """`towers.audio_resnet.AudioResNet` on frames, bins."""
  given = sizes, channels, tower.stem_width, tower.depths, tower.widths
  net = _bottlenecks(*given, padding="tf", always=True)
  steps, bins = net.places
  if tower.pool == "parts":  # stretches of time by a product, bands by means
    net.parts["pool"] = flops.linear(tower.parts, steps, bins * net.width)
    bands = tower.parts * min(tower.bands, bins)
    return net._replace(features=net.width * bands)
  return net._replace(features=net.width * (bins if tower.pool == "time" else 1))


def audio18(tower: Any, sizes: tuple[int, ...], channels: int) -> towers.Net:
  """`towers.audio_resnet.AudioResNet18` on frames, bins."""
  window = (3, 3)
  out = {"stem": flops.conv(math.prod(sizes), window, channels, tower.stem_width)}
  at, channels = sizes, tower.stem_width
  blocks = [("first", tower.first_width, s) for s in (2, 1, 1)]
  for i, width in enumerate(tower.widths, 1):
    blocks += [(f"stage{i}", width, stride) for stride in (2, 1)]
  for name, width, stride in blocks:
    at = towers.places(at, window, (stride,) * 2, "torch")
    cost = flops.conv(math.prod(at), window, channels, width)
    cost += flops.conv(math.prod(at), window, width, width)
    if stride > 1 or channels != width:
      cost += flops.conv(math.prod(at), (1, 1), channels, width)
    out[name], channels = out.get(name, 0.0) + cost, width
  return towers.Net(out, at, channels, channels)
