"""Random crops, scale jitter and flips of one clip [T, H, W, 3]; a picture has T = 1.

One draw holds for all frames. Shapes that come out are static: `jax.vmap` over rows
with a key for each. Resizing is bilinear between pixel centres without antialiasing, as
in `tf.image.resize`; it runs as two matrix products, which the matrix units of
accelerators do faster than gathers.
"""

import math

import jax
import jax.numpy as jnp

ATTEMPTS = 10  # of a crop, before the largest one in the middle is taken


def crop_resize(
  key: jax.Array,
  frames: jax.Array,
  size: int | tuple[int, int],
  area: tuple[float, float] = (0.08, 1.0),
  aspect: tuple[float, float] = (3 / 4, 4 / 3),
) -> jax.Array:
  """A crop of random area and shape, resized.

  The share of the area is uniform, width / height log-uniform, sides are rounded to
  pixels and the place is uniform; of ten draws the first that fits is taken. This is
  the rule of MoCo's library. The one of SimCLR's and BYOL's codes has the same ranges
  but draws the ratio uniformly, then the height.

  Args:
    frames: [T, H, W, 3] float.
    size: height and width that come out, or one number for both.
    area: least and largest share of the picture.
    aspect: least and largest width / height.
  Returns: [T, h, w, 3] float32. Where no draw fits, the largest crop in the middle
    whose ratio is in range.
  """
  height, width = frames.shape[1:3]
  top, left, rows, columns = box(key, height, width, area, aspect)
  size = (size, size) if isinstance(size, int) else size
  at = lambda start, part, n: start + jnp.clip(_centres(part, n), 0.0, part - 1.0)
  return sample(frames, at(top, rows, size[0]), at(left, columns, size[1]))


def box(key, height, width, area, aspect) -> tuple[jax.Array, ...]:
  """(top, left, rows, columns) of `crop_resize`, float32 scalars of whole pixels."""
  area_key, aspect_key, place_key = jax.random.split(key, 3)
  shape = (ATTEMPTS,)
  pixels = height * width * _uniform(area_key, shape, *area)
  ratio = jnp.exp(_uniform(aspect_key, shape, *map(math.log, aspect)))
  columns = jnp.round(jnp.sqrt(pixels * ratio))
  rows = jnp.round(jnp.sqrt(pixels / ratio))
  fits = (columns >= 1) & (columns <= width) & (rows >= 1) & (rows <= height)
  first = fits.argmax()
  ratio = min(max(width / height, aspect[0]), aspect[1])
  most = min(height, round(width / ratio)), min(width, round(height * ratio))
  rows, columns = (
    jnp.where(fits[first], x[first], float(m))
    for x, m in zip((rows, columns), most, strict=True)
  )
  place = jax.random.uniform(place_key, (2,))
  # floor(u (n + 1)) is uniform over 0..n; rounding up to n + 1 is cut off.
  spare = jnp.stack([height - rows, width - columns])
  anywhere = jnp.minimum(jnp.floor(place * (spare + 1)), spare)
  top, left = jnp.where(fits[first], anywhere, jnp.floor(spare / 2))
  return top, left, rows, columns


def scale_jitter(
  key: jax.Array,
  frames: jax.Array,
  size: int | tuple[int, int],
  factors: tuple[float, float] = (0.8, 1.2),
  p: float = 0.8,
) -> jax.Array:
  """Height and width scaled by a factor each, then a crop of `size` at any place.

  Source: `scale_jitter_augm` of the DMVR library, and the random crop behind it, in one
  step, without rounding the scaled sides to pixels. A factor too small for the crop to
  fit is raised to the least that does.

  Args:
    frames: [T, H, W, 3] float, at least of `size`.
    factors: least and largest; both axes draw by themselves.
    p: chance that a clip is scaled; the others are cropped only.
  Returns: [T, h, w, 3] float32.
  Raises: ValueError where frames are smaller than the crop.
  """
  size = (size, size) if isinstance(size, int) else tuple(size)
  sides = frames.shape[1:3]
  if sides[0] < size[0] or sides[1] < size[1]:
    raise ValueError(f"frames of {sides} are smaller than the crop of {size}.")
  gate_key, factor_key, place_key = jax.random.split(key, 3)
  factor = _uniform(factor_key, (2,), *factors)
  factor = jnp.where(jax.random.bernoulli(gate_key, p), factor, 1.0)
  place = jax.random.uniform(place_key, (2,))
  at = []
  for i, (side, n) in enumerate(zip(sides, size, strict=True)):
    scale = jnp.maximum(factor[i], n / side)
    start = place[i] * (side * scale - n)  # in pixels of the scaled clip
    # Unscaled, the crop is made of whole pixels.
    start = jnp.where(scale == 1.0, jnp.round(start), start)
    at.append(jnp.clip((start + jnp.arange(n) + 0.5) / scale - 0.5, 0.0, side - 1.0))
  return sample(frames, *at)


def flip(key: jax.Array, frames: jax.Array, p: float = 0.5) -> jax.Array:
  """Left and right exchanged, with chance p, in all frames."""
  return jnp.where(jax.random.bernoulli(key, p), frames[..., ::-1, :], frames)


def resize(frames: jax.Array, size: int | tuple[int, int]) -> jax.Array:
  """The whole of [T, H, W, 3] at another size, without any draw."""
  size = (size, size) if isinstance(size, int) else size
  at = (
    jnp.clip(_centres(side, n), 0.0, side - 1.0)
    for side, n in zip(frames.shape[1:3], size, strict=True)
  )
  return sample(frames, *at)


def sample(frames: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
  """Pixels [T, h, w, 3] at rows [h] and columns [w]: fractions of a pixel, in range."""
  rows, columns = (
    jnp.maximum(0.0, 1.0 - jnp.abs(at[:, None] - jnp.arange(n, dtype=at.dtype)))
    for at, n in ((rows, frames.shape[1]), (columns, frames.shape[2]))
  )
  # In full precision: tensor cores and matrix units would round pixels to 8 or 10 bits.
  return jnp.einsum("ih,thwc,jw->tijc", rows, frames, columns, precision="highest")


def _centres(part, n):
  """Where the n pixels that come out lie in `part` pixels, counted by centres."""
  return (jnp.arange(n) + 0.5) * (part / n) - 0.5


def _uniform(key, shape, low, high):
  return jax.random.uniform(key, shape, minval=low, maxval=high)
