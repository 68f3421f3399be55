"""FLOPs of views made on device: crops, blurs and filters run as matrix products.

Pixels are no parameters: a step makes each view once and needs no gradient of it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vlp_jax.costs import flops


def pixels(settings: Mapping[str, Any], sizes: Sequence[int]) -> float:
  """One view by the settings of `objectives.views`, of a clip or picture [T,] H, W."""
  *frames, height, width = sizes
  side, frames = settings["size"], frames[0] if frames else 1
  cost = _resample(height, width, side)
  if (blur := settings.get("blur")) is not None:
    reach = (blur.get("kernel") or side // 10) // 2
    cost += _resample(side + 2 * reach, side + 2 * reach, side)
  if (filters := settings.get("convolve")) is not None:
    k = max(filters.get("sizes", (11,)))
    cost += flops.conv(side * side, (k, k), 3, 3)
  return frames * cost


def _resample(height, width, side) -> float:
  """Rows, then columns, of three colours, to side x side."""
  return flops.linear(3 * side * width, height, 1) + flops.linear(3 * side, width, side)
