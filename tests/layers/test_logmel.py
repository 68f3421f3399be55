"""Log-mel front ends: published values, the sum that defines them, silence, masks."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from tests.reference import sound as reference
from vlp_jax.layers import logmel


@pytest.mark.parametrize("method", ["fft", "matmul"])
@pytest.mark.parametrize("name", ["mmv", "brave", "brave16k", "xdc"])
def test_published_spectrograms(name, method):
  _, inputs, outputs, meta = helpers.golden("logmel")
  s, given = logmel.front_end(name), meta["sets"][name]
  assert (s.rate_hz, s.window, s.hop, s.fft) == tuple(
    given[k] for k in ("sr", "win", "hop", "fft")
  )
  out = logmel.log_mel(jnp.array(inputs[name]), settings=s, method=method)
  mel, want = outputs[f"{name}/mel"], outputs[f"{name}/logmel"]
  np.testing.assert_allclose(out["mel"], mel, rtol=1e-5, atol=1e-4)
  loud = mel > 1e-2
  assert loud.mean() > 0.3
  np.testing.assert_allclose(out["logmel"][loud], want[loud], rtol=1e-5, atol=1e-4)
  assert np.abs(out["logmel"] - want).max() < 2e-2  # near silence too


@pytest.mark.parametrize("name", ["mmv", "brave", "brave16k", "xdc"])
def test_published_filters(name):
  outputs = helpers.golden("logmel")[2]
  s = logmel.front_end(name)
  got = logmel.mel_matrix(s.mels, s.fft // 2 + 1, s.rate_hz, s.low_hz, s.high_hz)
  want = np.zeros_like(got)
  want[tuple(outputs[f"{name}/W_index"])] = outputs[f"{name}/W_value"]
  np.testing.assert_allclose(got, want, atol=2e-5)
  empty = np.flatnonzero(~got.any(0))
  np.testing.assert_array_equal(empty, outputs[f"{name}/empty_filters"])
  assert len(empty) == (16 if name == "brave" else 0)


def test_values_of_two_tones():
  t = np.arange(61_440) / 48_000
  x = 0.5 * np.sin(2 * np.pi * 1000 * t) + 0.25 * np.sin(2 * np.pi * 3000 * t)
  x = jnp.array(x, jnp.float32)[None]
  for name, shape, bin_, peak, mean in (
    ("mmv", (60, 80), 26, 5.76823, -5.29839),
    ("brave", (384, 80), 27, 12.44075, 4.37449),
  ):
    got = logmel.log_mel(x, settings=logmel.front_end(name))["logmel"][0]
    assert got.shape == shape
    assert got[30].argmax() == bin_
    np.testing.assert_allclose(got.max(), peak, atol=1e-4)
    np.testing.assert_allclose(got.mean(), mean, atol=1e-3)


TINY = logmel.FrontEnd(800, 24, 10, 32, 5, 20.0, 390.0)


@pytest.mark.parametrize("method", ["fft", "matmul"])
def test_agrees_with_the_defining_sum(method):
  x = np.random.default_rng(0).normal(size=(2, 73))
  got = logmel.log_mel(jnp.array(x, jnp.float32), settings=TINY, method=method)
  for row in (0, 1):
    magnitude = reference.magnitudes(x[row], 24, 10, 32)
    want = reference.mel(magnitude, 800, 5, 20.0, 390.0)
    np.testing.assert_allclose(got["mel"][row], want, atol=1e-4)
    np.testing.assert_allclose(got["logmel"][row], np.log(want + 1e-6), atol=1e-4)
  assert got["mask"].shape == got["mel"].shape[:2] == (2, 8)


@pytest.mark.parametrize(
  ("log", "constant", "scale"),
  [("add", 1e-3, 1.0), ("one_plus", 7.0, 1.0), ("floor", 0.5, 0.2)],
)
def test_logarithms(log, constant, scale):
  s = dataclasses.replace(TINY, mels=0, log=log, constant=constant, scale=scale)
  x = np.random.default_rng(1).normal(size=(1, 40)).astype(np.float32)
  got = logmel.log_mel(jnp.array(x), settings=s)["logmel"][0]
  m = reference.magnitudes(x[0], 24, 10, 32)
  want = {
    "add": lambda: np.log(m + constant),
    "one_plus": lambda: np.log(1 + constant * m),
    "floor": lambda: np.log(np.maximum(m, constant)),
  }[log]()
  np.testing.assert_allclose(got, scale * want, atol=1e-4)
  assert got.shape == (4, s.bins) == (4, 17)


@pytest.mark.parametrize(
  ("name", "seconds", "frames", "bins"),
  [
    ("mmv", 0.64, 30, 80),
    ("mmv", 1.28, 60, 80),
    ("mmv", 2.0, 94, 80),
    ("mmv", 3.2, 150, 80),
    ("xdc", 1.0, 100, 40),
    ("l3", 1.0, 199, 257),
    ("ave", 1.0, 200, 257),
    ("mmv16k", 3.2, 160, 80),
  ],
)
def test_sizes(name, seconds, frames, bins):
  s = logmel.front_end(name)
  assert s.frames(round(seconds * s.rate_hz)) == frames
  assert s.bins == bins


def test_integers_masks_and_silence():
  x = np.random.default_rng(2).integers(-9000, 9000, (2, 60)).astype(np.int16)
  mask = np.ones((2, 60), bool)
  mask[1, 25:] = False
  out = logmel.log_mel(jnp.array(x), jnp.array(mask), settings=TINY)
  real = np.where(mask, x / 32768, 0).astype(np.float32)
  same = logmel.log_mel(jnp.array(real), settings=TINY)
  np.testing.assert_allclose(out["logmel"], same["logmel"], atol=1e-5)
  np.testing.assert_array_equal(out["mask"].sum(1), [6, 3])
  wild = np.where(mask, x, 30_000).astype(np.int16)
  again = logmel.log_mel(jnp.array(wild), jnp.array(mask), settings=TINY)
  np.testing.assert_array_equal(out["logmel"], again["logmel"])
  np.testing.assert_allclose(out["logmel"][1, 3:], np.log(1e-6), rtol=1e-6)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match=r"'vatt'; known: mmv"):
    logmel.front_end("vatt")
  x = jnp.zeros((1, 40))
  with pytest.raises(ValueError, match="'dct'"):
    logmel.log_mel(x, settings=TINY, method="dct")
  with pytest.raises(ValueError, match="'db'"):
    logmel.log_mel(x, settings=dataclasses.replace(TINY, log="db"))


def test_normalise_is_over_real_frames():
  rng = np.random.default_rng(8)
  x, lengths = rng.normal(3, 2, size=(3, 10, 4)).astype(np.float32), (10, 6, 0)
  mask = np.arange(10) < np.array(lengths)[:, None]
  for kind, axes in (("example", (0, 1)), ("bins", (0,))):
    got = np.asarray(logmel.normalise(jnp.asarray(x), jnp.asarray(mask), kind))
    for row, n in enumerate(lengths):
      assert not got[row, n:].any()
      if n:
        part = x[row, :n].astype(np.float64)
        spread = np.sqrt(part.var(axes, keepdims=True) + 1e-5)
        want = (part - part.mean(axes, keepdims=True)) / spread
        np.testing.assert_allclose(got[row, :n], want, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="normalise is 'bin'"):
    logmel.normalise(x, mask, "bin")
