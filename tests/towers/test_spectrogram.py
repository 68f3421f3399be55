"""The parameter-free tower: means over equal stretches of the real frames."""

import jax
import numpy as np
import pytest

from vlp_jax.towers import spectrogram


def by_hand(x, length, parts):
  """Each frame cut into 1,000 slices, which go to their stretches one by one."""
  fine = np.repeat(x[:length].astype(np.float64), 1_000, axis=0)
  return np.stack([p.mean(0) for p in np.array_split(fine, parts)]).ravel()


@pytest.mark.parametrize("parts", [1, 4, 8])
def test_means_of_stretches(parts):
  x = np.random.default_rng(0).normal(size=(3, 20, 5)).astype(np.float32)
  lengths = np.array([20, 8, 4])
  frames = np.arange(20) < lengths[:, None]
  tower = spectrogram.Spectrogram(parts=parts)
  run = jax.jit(lambda x, f: tower.apply({}, x, frames=f)["features"])
  got = np.asarray(run(x, frames))
  want = np.stack([by_hand(a, n, parts) for a, n in zip(x, lengths, strict=True)])
  np.testing.assert_allclose(got, want, atol=1e-6)
  behind = np.where(frames[..., None], x, 99.0).astype(np.float32)
  np.testing.assert_array_equal(run(behind, frames), got)
  whole = tower.apply({}, x)["features"]
  np.testing.assert_allclose(whole, run(x, np.ones_like(frames)), atol=1e-6)
  assert tower.init(jax.random.key(0), x) == {}
