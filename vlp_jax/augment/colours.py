"""Changes of colour and sharpness of one clip [T, H, W, 3] with pixels in 0..1.

One draw holds for all frames. Grey, hue, saturation and contrast are those of
`tf.image`: grey is 0.2989 R + 0.587 G + 0.114 B, saturation and hue change in HSV, and
contrast is about the mean of each channel of each frame. (MoCo's library has the mean
grey of the picture for contrast and mixes with grey for saturation.) `jax.vmap` over
rows with a key for each.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

GREY = (0.2989, 0.587, 0.114)
ORDER = ("brightness", "contrast", "saturation", "hue")
DMVR_ORDER = ("brightness", "saturation", "contrast", "hue")
FORMS = ("factor", "shift")
EDGES = {"zeros": "constant", "edge": "edge"}
# Settings of `jitter`. SimCLR at strength s: `simclr(s)`.
DMVR = dict(
  brightness=32 / 255,
  contrast=0.4,
  saturation=0.4,
  hue=0.2,
  form="shift",
  order=DMVR_ORDER,
  clip="end",
)


def simclr(strength: float = 1.0) -> dict[str, float]:
  """`jitter` of SimCLR (arXiv 2002.05709): 1 for ImageNet, 0.5 for CIFAR."""
  s = strength
  return dict(brightness=0.8 * s, contrast=0.8 * s, saturation=0.8 * s, hue=0.2 * s)


def jitter(
  key: jax.Array,
  frames: jax.Array,
  brightness: float = 0.8,
  contrast: float = 0.8,
  saturation: float = 0.8,
  hue: float = 0.2,
  p: float = 0.8,
  form: str = "factor",
  order: str | Sequence[str] = "random",
  clip: str = "each",
) -> jax.Array:
  """Brightness, contrast, saturation and hue, each by a random amount.

  Args:
    frames: [T, H, W, 3] float in 0..1.
    brightness, contrast, saturation: b, c, s; factors are uniform in 1 - x .. 1 + x, at
      least 0.
    hue: shifts are uniform in -hue .. hue, of the circle; at most 0.5.
    p: chance that a clip is changed at all.
    form: of brightness: a "factor" (SimCLR), or a "shift" of -b .. b (DMVR, BYOL).
    order: "random" over all 24, as SimCLR, MoCo and BYOL, or names in a fixed one.
    clip: to 0..1 after "each" change (SimCLR, BYOL) or at the "end" (DMVR).
  Returns: [T, H, W, 3] in 0..1. The defaults are those of SimCLR at strength 1.
  Raises: ValueError for an unknown name.
  """
  fixed = order != "random"
  names = tuple(order) if fixed else ORDER
  if sorted(names) != sorted(ORDER) or form not in FORMS or clip not in ("each", "end"):
    raise ValueError(f"order={order!r}, form={form!r}, clip={clip!r}: see `jitter`.")
  gate_key, order_key, *keys = jax.random.split(key, 6)
  keys = dict(zip(ORDER, keys, strict=True))
  factor = lambda name, x: _uniform(keys[name], max(0.0, 1.0 - x), 1.0 + x)
  if form == "factor":
    light = factor("brightness", brightness)
    bright = lambda x: x * light
  else:
    light = _uniform(keys["brightness"], -brightness, brightness)
    bright = lambda x: x + light
  amounts = factor("contrast", contrast), factor("saturation", saturation)
  turn = _uniform(keys["hue"], -hue, hue)
  changes = {
    "brightness": bright,
    "contrast": lambda x: adjust_contrast(x, amounts[0]),
    "saturation": lambda x: adjust_saturation(x, amounts[1]),
    "hue": lambda x: adjust_hue(x, turn),
  }
  cut = lambda x: jnp.clip(x, 0.0, 1.0)
  steps = [changes[name] for name in names]
  places = None if fixed else jax.random.permutation(order_key, len(steps))
  out = frames
  for i, step in enumerate(steps):
    out = step(out) if fixed else jax.lax.switch(places[i], steps, out)
    out = cut(out) if clip == "each" else out
  return jnp.where(jax.random.bernoulli(gate_key, p), cut(out), frames)


def adjust_contrast(frames: jax.Array, factor) -> jax.Array:
  """factor * (x - m) + m, m the mean of each channel of each frame."""
  mean = frames.mean((1, 2), keepdims=True)
  return factor * (frames - mean) + mean


def adjust_saturation(frames: jax.Array, factor) -> jax.Array:
  """S of HSV times factor, at most 1; H and V stay.

  With V = max and S = 1 - min / V the pixel is V - (V - x) S' / S, whatever its hue.
  Where V <= 0, which a shift may leave, S is 0.
  """
  value, low = frames.max(-1, keepdims=True), frames.min(-1, keepdims=True)
  some = (value > low) & (value > 0)
  # S' = min(1, factor S), so S' / S = min(V / (V - min), factor).
  ratio = jnp.minimum(value / jnp.where(some, value - low, 1.0), factor)
  return value - (value - frames) * jnp.where(some, ratio, 0.0)


def adjust_hue(frames: jax.Array, turn) -> jax.Array:
  """H of HSV plus `turn`, in turns of the circle; S and V stay."""
  r, g, b = jnp.moveaxis(frames, -1, 0)
  value, low = frames.max(-1), frames.min(-1)
  span = value - low
  some = span > 0
  over = 1.0 / jnp.where(some, span, 1.0)
  # Channels are compared with each other: compiled programs may compute `value` from
  # channels that are rounded otherwise, and none of them would equal it.
  hue = jnp.where(
    (r >= g) & (r >= b),
    (g - b) * over,
    jnp.where(g >= b, 2.0 + (b - r) * over, 4.0 + (r - g) * over),
  )  # in sixths
  hue = hue + 6.0 * turn
  # A channel is V - span * (how far H is from its own colour, between 60 and 120 deg).
  at = lambda n: jnp.mod(n + hue, 6.0)
  away = lambda k: jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)
  out = jnp.stack([value - span * away(at(n)) for n in (5.0, 3.0, 1.0)], axis=-1)
  return jnp.where(some[..., None], out, frames)


def grey(key: jax.Array, frames: jax.Array, p: float = 0.2) -> jax.Array:
  """All channels the grey of the pixel, with chance p."""
  new = (frames * jnp.array(GREY, frames.dtype)).sum(-1, keepdims=True)
  return jnp.where(jax.random.bernoulli(key, p), new, frames)


def blur(
  key: jax.Array,
  frames: jax.Array,
  p: float = 0.5,
  sigma: tuple[float, float] = (0.1, 2.0),
  kernel: int | None = None,
  edges: str = "zeros",
) -> jax.Array:
  """Gaussian blur: a window along rows, then along columns, with chance p.

    w_d = exp(-d^2 / (2 sigma^2)) / sum,  |d| <= r = kernel // 2

  Args:
    frames: [T, H, W, 3] float.
    sigma: least and largest standard deviation in pixels; uniform.
    kernel: size of the window in pixels, H // 10 by default; an even one gets one more.
    edges: beyond the picture are "zeros" (SimCLR, BYOL) or the "edge" again (MoCo).
  """
  if edges not in EDGES:
    raise ValueError(f"edges is {edges!r}; give one of {tuple(EDGES)}.")
  gate_key, sigma_key = jax.random.split(key)
  reach = (frames.shape[1] // 10 if kernel is None else kernel) // 2
  width = _uniform(sigma_key, *sigma)
  taps = jnp.exp(-0.5 * jnp.square(jnp.arange(-reach, reach + 1) / width))
  taps = taps / taps.sum()
  pad = [(0, 0), (reach, reach), (reach, reach), (0, 0)]
  wide = jnp.pad(frames, pad, mode=EDGES[edges])
  bands = [_band(taps, n) for n in frames.shape[1:3]]
  out = jnp.einsum("ih,thwc,jw->tijc", bands[0], wide, bands[1], precision="highest")
  return jnp.where(jax.random.bernoulli(gate_key, p), out, frames)


def solarise(
  key: jax.Array, frames: jax.Array, p: float = 0.2, threshold: float = 0.5
) -> jax.Array:
  """1 - x where x >= threshold, with chance p."""
  new = jnp.where(frames < threshold, frames, 1.0 - frames)
  return jnp.where(jax.random.bernoulli(key, p), new, frames)


def _band(taps, n):
  """[n, n + 2 r]: row i has the taps at columns i .. i + 2 r."""
  offset = jnp.arange(n + len(taps) - 1) - jnp.arange(n)[:, None]
  inside = (offset >= 0) & (offset < len(taps))
  return jnp.where(inside, taps[jnp.clip(offset, 0, len(taps) - 1)], 0.0)


def _uniform(key, low, high):
  return jax.random.uniform(key, (), minval=low, maxval=high)
