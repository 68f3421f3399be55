"""Colour histogram of a clip: the baseline that knows no shape, place or order.

All pixels of all frames vote for their cell of a bins x bins x bins grid of red, green
and blue; a two-layer net embeds the square root of the shares. What it retrieves is
what colour alone gives away.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import pixels as pixels_lib
from vlp_jax.metrics import wide


def histogram(
  frames: jax.Array, mask: jax.Array, *, bins: int = 4, soft: bool = True
) -> jax.Array:
  """Share of the pixels in each cell of the colour grid.

  Args:
    frames, mask: [B, T, H, W, 3] uint8 or float in 0..1; [B, T] bool, what counts.
    soft: a pixel is shared linearly between the nearest cell centres of each channel;
      otherwise it goes to its cell.
  Returns: [B, bins**3] float32, sums to 1, or is 0 without any frame.
  """

  def votes(channel):  # [B, P] in 0..1 to [B, P, bins]
    at = channel[..., None] * bins
    if not soft:
      return (jnp.clip(jnp.floor(at), 0, bins - 1) == jnp.arange(bins)).astype(at.dtype)
    at = jnp.clip(at - 0.5, 0, bins - 1)
    return jnp.maximum(1 - jnp.abs(at - jnp.arange(bins)), 0.0)

  def add(total, frame):  # frame by frame: all votes at once would be 64 floats a pixel
    pixels, real = frame  # [B, H, W, 3], [B]
    flat = wide(pixels_lib.unit(pixels)).reshape(len(pixels), -1, 3)
    red, green, blue = (votes(flat[..., i]) for i in range(3))
    both = (red[..., :, None] * green[..., None, :]).reshape(*flat.shape[:2], -1)
    cells = jnp.einsum("bpi,bpj->bij", both, blue).reshape(len(pixels), -1)
    return total + cells * real[:, None] / flat.shape[1], None

  rows = (jnp.moveaxis(frames, 1, 0), jnp.moveaxis(mask, 1, 0))
  start = jnp.zeros((len(frames), bins**3), jnp.float32)
  total = jax.lax.scan(add, start, rows)[0]
  return total / jnp.maximum(mask.sum(1, keepdims=True), 1)


class ColourHistogram(nn.Module):
  """Histogram, square root, Dense, ReLU, Dense. Same outputs as `s3d.S3D`."""

  embed_dim: int = 512
  mlp_dim: int = 256
  bins: int = 4
  soft: bool = True

  @nn.compact
  def __call__(self, frames: jax.Array, mask: jax.Array) -> dict[str, jax.Array]:
    """frames [B, T, H, W, 3], mask [B, T] to features [B, mlp_dim], embed [B, D]."""
    x = jnp.sqrt(histogram(frames, mask, bins=self.bins, soft=self.soft))
    features = nn.relu(nn.Dense(self.mlp_dim, name="fc1")(x))
    return {
      "features": features,
      "embed": nn.Dense(self.embed_dim, name="fc2")(features),
    }
