"""Pixels as networks read them."""

import jax
import jax.numpy as jnp


def unit(frames: jax.Array) -> jax.Array:
  """uint8 0..255 to float32 0..1; floats are in 0..1 already."""
  return frames / jnp.float32(255) if frames.dtype == jnp.uint8 else frames
