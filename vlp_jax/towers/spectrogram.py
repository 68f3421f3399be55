"""A log-mel spectrogram as features, without a parameter: what networks must beat."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class Spectrogram(nn.Module):
  """Means of each bin over `parts` equal stretches of the real frames, side by side.

  Attributes:
    parts: stretches. dtype, bn_groups: as other towers have them; not used.
  """

  parts: int = 8
  bn_groups: int = 1
  dtype: jnp.dtype = jnp.float32

  def __call__(
    self,
    logmel: jax.Array,
    *,
    train: bool = False,
    where: jax.Array | None = None,
    frames: jax.Array | None = None,
  ) -> dict[str, jax.Array]:
    """features [B, parts * M] float32 of logmel [B, F, M].

    Frame i belongs to the stretches in which some of [i, i + 1) lies, by that share.
    Args: frames [B, F] bool, the real ones, which come first; all when None.
    """
    del train, where
    size = logmel.shape[1]
    count = jnp.full(len(logmel), size) if frames is None else frames.sum(1)
    length = jnp.maximum(count, 1)[:, None] / self.parts  # [B, 1] frames of a stretch
    low = jnp.arange(self.parts) * length  # [B, P]
    high = low + length
    at = jnp.arange(size)
    inside = jnp.minimum(high[..., None], at + 1) - jnp.maximum(low[..., None], at)
    weight = jnp.maximum(inside, 0.0) / length[..., None]  # [B, P, F]
    features = jnp.einsum("bpf,bfm->bpm", weight, logmel, precision="highest")
    return {"features": features.reshape(len(logmel), -1).astype(jnp.float32)}
