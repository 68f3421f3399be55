"""Changes of sounds: loops, ranges of what is drawn, silence."""

import functools

import jax
import numpy as np
import pytest

from tests.reference import pictures as reference
from vlp_jax.augment import waves
from vlp_jax.errors import UserError

KEYS = jax.random.split(jax.random.key(3), 300)
SOUND = np.random.default_rng(0).normal(size=200).astype(np.float32)


def draws(fn, sound=SOUND, **given):
  run = jax.jit(jax.vmap(lambda key: fn(key, sound, **given)))
  return np.array(run(KEYS))


def test_gain_is_in_decibels():
  got = draws(waves.gain, db=(-12.0, 6.0))
  db = 20 * np.log10(got[:, 5] / SOUND[5])
  assert -12.01 < db.min() < -11
  assert 5 < db.max() < 6.01
  np.testing.assert_allclose(
    got, SOUND * (got[:, 5] / SOUND[5])[:, None], rtol=1e-4, atol=1e-6
  )


def test_crops_are_windows_at_any_place():
  got = draws(waves.crop, sound=np.arange(20.0, dtype=np.float32), size=5)
  np.testing.assert_array_equal(np.diff(got), 1.0)
  assert set(got[:, 0]) == set(range(16))
  with pytest.raises(ValueError, match="window of 201"):
    waves.crop(KEYS[0], SOUND, 201)


def test_shifts_bring_silence():
  sound = np.arange(1.0, 11.0, dtype=np.float32)
  got = draws(waves.shift, sound=sound, most=3)
  want = {
    by: [sound[i - by] if 0 <= i - by < 10 else 0.0 for i in range(10)]
    for by in range(-3, 4)
  }
  seen = {by for row in got for by, x in want.items() if (row == x).all()}
  assert seen == set(want)
  assert all(any((row == x).all() for x in want.values()) for row in got)


@pytest.mark.parametrize("factor", [0.5, 0.83, 1.0, 1.7])
def test_speed_against_loops(factor):
  got = waves.speed(KEYS[0], SOUND, (factor, factor), size=150)
  want = reference.faster(SOUND, np.float32(factor), 150)
  np.testing.assert_allclose(got, want, atol=2e-4)  # places in float32
  assert (np.array(got)[int(199 / factor) + 1 :] == 0).all()


def test_speeds_are_in_range():
  got = draws(waves.speed, sound=np.arange(40.0, dtype=np.float32), factors=(0.8, 1.2))
  speeds = got[:, 10] / 10
  assert 0.799 < speeds.min() < 0.82
  assert 1.18 < speeds.max() < 1.201


def test_noise_has_the_ratio_asked_for():
  sound = np.random.default_rng(1).normal(size=5000).astype(np.float32)
  for low, high in ((10.0, 10.0), (-3.0, 20.0)):
    noise = draws(waves.noise, sound=sound, snr_db=(low, high)) - sound
    found = -10 * np.log10(np.square(noise).mean(1) / np.square(sound).mean())
    assert low - 0.4 < found.min() < low + 1
    assert high - 1 < found.max() < high + 0.4
    assert np.abs(noise.mean(1) / noise.std(1)).max() < 0.1
  silent = waves.noise(KEYS[0], np.zeros(50, np.float32))
  np.testing.assert_array_equal(silent, 0.0)


def test_polarity():
  got = draws(waves.polarity)
  turned = (got == -SOUND).all(1)
  assert (turned ^ (got == SOUND).all(1)).all()
  assert 0.4 < turned.mean() < 0.6


def test_a_view_is_its_changes_in_turn_with_keys_of_their_own():
  given = dict(speed={}, crop=dict(size=100), shift=dict(most=9), gain={}, polarity={})
  view = functools.partial(waves.view, KEYS[5], SOUND)
  got = view(**given, noise={})
  assert got.shape == (100,)
  before = view(**given)
  np.testing.assert_allclose(got, waves.view(KEYS[5], before, noise={}), atol=1e-6)
  np.testing.assert_array_equal(view(), SOUND)
  with pytest.raises(UserError, match="Did you mean 'factors'"):
    view(speed=dict(factor=(1, 2)))


def test_an_equaliser_is_linear_and_softens_one_band():
  rng = np.random.default_rng(2)
  x, y = rng.normal(size=(2, 400)).astype(np.float32)
  run = jax.jit(functools.partial(waves.equalise, db=6.0, band=0.3))
  both = run(KEYS[0], x + 2 * y)
  np.testing.assert_allclose(both, run(KEYS[0], x) + 2 * run(KEYS[0], y), atol=1e-4)
  level = lambda key, **given: (
    20
    * np.log10(
      np.abs(np.fft.rfft(waves.equalise(key, x, **given))) / np.abs(np.fft.rfft(x))
    )
  )
  for key in KEYS[:4]:
    flat = level(key, db=0.0, band=0.3)
    soft = np.flatnonzero(flat < -13)
    np.testing.assert_allclose(np.delete(flat, soft), 0, atol=1e-2)
    np.testing.assert_allclose(flat[soft], -26, atol=0.2)
    assert len(soft) <= 0.3 * len(flat) + 1
    assert (np.diff(soft) == 1).all()
    # Straight lines between nine places: 200 frequencies in eight pieces of 25.
    bent = level(key, db=6.0)
    assert np.abs(np.diff(bent[:26], 2)).max() < 0.05
    assert np.abs(bent).max() > 1
