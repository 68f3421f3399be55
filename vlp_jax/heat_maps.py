"""Heat maps drawn over frames: warm where the map is high, box and peak on top."""

import numpy as np

# From nothing over blue and orange to white, at even steps.
COLOURS = np.array([[0, 0, 0], [38, 70, 160], [222, 110, 38], [255, 240, 214]], float)
BOX, PEAK = (255, 255, 255), (255, 40, 40)


def enlarge(x: np.ndarray, height: int, width: int) -> np.ndarray:
  """A map [h, w] at [height, width], linear between the middles of its places."""
  for axis, size in enumerate((height, width)):
    n = x.shape[axis]
    at = np.clip((np.arange(size) + 0.5) * n / size - 0.5, 0, n - 1)
    low = np.floor(at).astype(int)
    share = (at - low).reshape(-1, *[1] * (1 - axis))
    high = np.minimum(low + 1, n - 1)
    x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
  return x


def overlay(
  frame: np.ndarray,
  heat: np.ndarray,
  *,
  box: np.ndarray | None = None,
  peak: tuple[float, float] | None = None,
  scale: int = 1,
) -> np.ndarray:
  """The frame in grey under its map.

  Args:
    frame: [H, W, 3] uint8; heat: [h, w] float, drawn from its least to its greatest
      value; what is not finite is drawn as the least.
    box: x1 y1 x2 y2 in 0..1; peak: x, y in 0..1, a cross.
    scale: the picture grows by this factor.
  Returns: [scale H, scale W, 3] uint8.
  """
  if frame.dtype != np.uint8 or frame.ndim != 3 or heat.ndim != 2:
    raise ValueError(
      f"frame {frame.dtype} {frame.shape}, map {heat.shape}; expected uint8 [H, W, 3] "
      "and [h, w]."
    )
  frame = frame.repeat(scale, 0).repeat(scale, 1)
  height, width = frame.shape[:2]
  finite = np.isfinite(heat)
  heat = np.where(finite, heat, heat[finite].min() if finite.any() else 0.0)
  heat = heat - heat.min()
  heat = enlarge(heat / max(heat.max(), np.finfo(float).tiny), height, width)
  at = heat * (len(COLOURS) - 1)
  low = np.minimum(at.astype(int), len(COLOURS) - 2)
  share = (at - low)[..., None]
  colour = COLOURS[low] * (1 - share) + COLOURS[low + 1] * share
  grey = frame.mean(-1, keepdims=True)
  out = np.clip(0.55 * grey + 0.6 * colour, 0, 255).astype(np.uint8)
  if box is not None:
    x1, y1, x2, y2 = (
      min(max(round(float(v) * n), 0), n - 1)
      for v, n in zip(box, (width, height) * 2, strict=True)
    )
    out[[y1, y2], x1 : x2 + 1] = BOX
    out[y1 : y2 + 1, [x1, x2]] = BOX
  if peak is not None:
    x, y = (min(int(v * n), n - 1) for v, n in zip(peak, (width, height), strict=True))
    reach = max(height // 24, 1)
    out[max(y - reach, 0) : y + reach + 1, x] = PEAK
    out[y, max(x - reach, 0) : x + reach + 1] = PEAK
  return out
