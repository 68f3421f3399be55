"""Spectrograms by formula: their size, and the product with the mel filters.

The Fourier transform is left out, as what is no matmul; the product runs once in a
step, for no gradient reaches the samples.
"""

from typing import NamedTuple

from vlp_jax.costs import flops
from vlp_jax.layers import logmel


class Spectrogram(NamedTuple):
  """Rows and columns, and FLOPs of the mel filters."""

  frames: int
  bins: int
  flops: float


def spectrogram(front_end: str, samples: int) -> Spectrogram:
  """Of so many samples."""
  s = logmel.front_end(front_end)
  frames = s.frames(samples)
  return Spectrogram(frames, s.bins, flops.linear(frames, s.fft // 2 + 1, s.mels))
