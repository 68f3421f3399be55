"""Crops and colours against loops; draws: ranges, chances, one for all frames."""

import colorsys
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import pictures as reference
from vlp_jax.augment import colours, crops, pixels
from vlp_jax.errors import UserError

KEYS = jax.random.split(jax.random.key(7), 400)
near = functools.partial(np.testing.assert_allclose, atol=2e-6, rtol=1e-5)


def clip(length=2, height=9, width=12, seed=0, low=0.0, high=1.0):
  rng = np.random.default_rng(seed)
  return rng.uniform(low, high, (length, height, width, 3)).astype(np.float32)


# ----- crops


def test_crop_against_loops():
  frames = clip(height=24, width=30)
  run = jax.jit(lambda key: crops.crop_resize(key, frames, (7, 5)))
  find = jax.jit(
    lambda key: jnp.stack(crops.box(key, 24, 30, (0.08, 1.0), (0.75, 4 / 3)))
  )
  for key in KEYS[:4]:
    top, left, rows, columns = (int(n) for n in find(key))
    for got, picture in zip(run(key), frames, strict=True):
      near(got, reference.bilinear(picture, (7, 5), top, left, rows, columns))


def test_boxes_are_in_range_and_go_everywhere():
  height, width = 40, 50
  ranges = (0.2, 1.0), (0.75, 4 / 3)
  draw = jax.jit(jax.vmap(lambda k: jnp.stack(crops.box(k, height, width, *ranges))))
  top, left, rows, columns = np.array(draw(KEYS)).T
  assert (top >= 0).all()
  assert (left >= 0).all()
  assert (top + rows <= height).all()
  assert (left + columns <= width).all()
  np.testing.assert_array_equal(rows, np.round(rows))
  share = rows * columns / (height * width)
  assert share.min() > 0.17  # sides are rounded
  assert share.min() < 0.25
  assert share.max() > 0.9
  ratio = columns / rows
  assert ratio.min() > 0.7
  assert ratio.max() < 1.42
  assert (top == 0).any()
  assert (top + rows == height).any()
  # Half of the ratios on a logarithmic scale are below 1.
  assert 0.4 < (ratio < 1).mean() < 0.6


def test_a_crop_that_never_fits_is_the_largest_in_the_middle():
  found = crops.box(KEYS[0], 10, 100, (0.9, 1.0), (0.75, 4 / 3))
  np.testing.assert_array_equal(found, [0, 43, 10, 13])
  found = crops.box(KEYS[0], 100, 10, (0.9, 1.0), (0.75, 4 / 3))
  np.testing.assert_array_equal(found, [43, 0, 13, 10])


@pytest.mark.parametrize("size", [(5, 17), 9, (20, 6)])
def test_resize_against_loops(size):
  frames = clip()
  both = (size, size) if isinstance(size, int) else size
  got = crops.resize(frames, size)
  for one, picture in zip(got, frames, strict=True):
    near(one, reference.bilinear(picture, both))


def test_scale_jitter_against_loops():
  """A picture whose pixels say where they are gives factors and place away."""
  rows, columns = np.meshgrid(np.arange(20.0), np.arange(30.0), indexing="ij")
  picture = np.stack([rows, columns, np.sin(rows * columns)], -1).astype(np.float32)
  frames = np.stack([picture, picture])
  run = jax.jit(jax.vmap(lambda key: crops.scale_jitter(key, frames, (8, 10))))
  got = np.array(run(KEYS))
  np.testing.assert_array_equal(got[:, 0], got[:, 1])
  y, x = got[:, 0, :, 4, 0], got[:, 0, 4, :, 1]
  # A step in the result is 1 / factor in the source, away from clamped borders.
  step = np.stack([np.diff(y, axis=1)[:, 3], np.diff(x, axis=1)[:, 4]])
  whole = (np.abs(step - 1) < 1e-5).all(0)
  assert 0.1 < whole.mean() < 0.3  # p = 0.8
  factors = 1 / step[:, ~whole]
  assert factors.min() > 0.799
  assert factors.max() < 1.201
  assert np.abs(np.corrcoef(factors)[0, 1]) < 0.2  # each axis by itself
  assert y.min() == 0
  assert y.max() == 19
  some = np.flatnonzero(~whole)[0]
  for i, j in itertools.product(range(8), range(10)):
    near(got[some, 0, i, j], reference.at(picture, y[some, i], x[some, j]), atol=1e-3)
  # Unscaled crops are whole pixels.
  np.testing.assert_array_equal(y[whole], np.round(y[whole]))


def test_scale_jitter_always_fills_the_crop():
  frames = np.ones((1, 8, 9, 3), np.float32)
  run = jax.jit(
    jax.vmap(lambda key: crops.scale_jitter(key, frames, 8, factors=(0.5, 1.5)))
  )
  near(run(KEYS[:32]), 1.0)
  with pytest.raises(ValueError, match="smaller than the crop"):
    crops.scale_jitter(KEYS[0], frames, 9)


def test_flip():
  frames = clip()
  got = np.array(jax.vmap(lambda key: crops.flip(key, frames))(KEYS))
  turned = (got == frames[:, :, ::-1]).all((1, 2, 3, 4))
  assert ((got == frames).all((1, 2, 3, 4)) ^ turned).all()
  assert 0.42 < turned.mean() < 0.58


# ----- colours


@pytest.mark.parametrize("amount", [0.0, 0.4, 1.0, 1.9])
def test_saturation_and_contrast_against_loops(amount):
  frames = clip()
  frames[0, 0, 0], frames[0, 0, 1] = 0.0, 0.5  # black and grey have no hue
  near(colours.adjust_saturation(frames, amount), reference.saturation(frames, amount))
  near(colours.adjust_contrast(frames, amount), reference.contrast(frames, amount))


@pytest.mark.parametrize("turn", [-0.5, -0.17, 0.0, 0.2, 0.5])
def test_hue_against_loops(turn):
  frames = clip()
  frames[0, 0, :7] = list(itertools.product([0.0, 1.0], repeat=3))[:7]
  frames[0, 1, 0] = 0.5
  near(colours.adjust_hue(frames, turn), reference.hue(frames, turn), atol=1e-5)


OFF = dict(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, p=1.0)
GIVEN = dict(brightness=0.3, contrast=0.4, saturation=0.5, hue=0.1)


def read_off(name, frames, new):
  """How much of one change is between two clips of a strongly coloured pixel."""
  one, other = frames[0, 0, 0].astype(float), np.array(new)[0, 0, 0].astype(float)
  if name == "brightness":
    return other[0] / one[0]
  if name == "contrast":
    mean = frames[0, :, :, 0].mean()
    return (other[0] - mean) / (one[0] - mean)
  before, after = (colorsys.rgb_to_hsv(*x) for x in (one, other))
  if name == "saturation":
    return after[1] / before[1]
  return (after[0] - before[0] + 0.5) % 1.0 - 0.5


@pytest.mark.parametrize("name", colours.ORDER)
def test_amounts_are_in_range_and_do_what_they_say(name):
  frames = clip(1, 3, 4, low=0.3, high=0.6)  # nothing reaches 0 or 1
  frames[0, 0, 0] = [0.3, 0.6, 0.45]
  given = OFF | {name: GIVEN[name]}
  run = jax.jit(jax.vmap(lambda key: colours.jitter(key, frames, **given)))
  got = run(KEYS[:200])
  found = np.array([read_off(name, frames, x) for x in got])
  middle, reach = (0.0 if name == "hue" else 1.0), GIVEN[name]
  assert (np.abs(found - middle) < reach + 1e-4).all()
  assert found.min() < middle - 0.9 * reach
  assert found.max() > middle + 0.9 * reach
  change = dict(
    brightness=np.multiply,
    contrast=reference.contrast,
    saturation=reference.saturation,
    hue=reference.hue,
  )[name]
  for x, amount in zip(got[:3], found[:3], strict=True):
    near(x, change(frames, amount), atol=1e-5)


def test_orders():
  """A fixed order is its changes in turn; a random one is one of the 24."""
  frames = clip(1, 4, 5)
  alone = {
    name: jax.jit(functools.partial(colours.jitter, **(OFF | {name: GIVEN[name]})))
    for name in colours.ORDER
  }
  free = jax.jit(lambda key: colours.jitter(key, frames, **GIVEN, p=1.0))
  turn = colours.DMVR_ORDER
  fixed = jax.jit(lambda key: colours.jitter(key, frames, **GIVEN, p=1.0, order=turn))
  seen = set()
  for key in KEYS[:12]:
    found = []
    for order in itertools.permutations(colours.ORDER):
      x = functools.reduce(lambda x, name: alone[name](key, x), order, frames)
      found.append((float(np.abs(free(key) - x).max()), order))
    assert min(found)[0] < 1e-5
    seen.add(min(found)[1])
    x = functools.reduce(lambda x, name: alone[name](key, x), turn, frames)
    near(fixed(key), x, atol=1e-5)
  assert len(seen) > 6


def test_dmvr_shifts_light_and_cuts_at_the_end():
  frames = np.full((2, 3, 3, 3), 0.99, np.float32)
  frames[:, 0] = 0.01
  draw = lambda **given: jax.jit(
    jax.vmap(lambda key: colours.jitter(key, frames, **(colours.DMVR | OFF | given)))
  )(KEYS[:100])
  got = np.array(draw(brightness=0.2))
  assert got.min() == 0
  assert got.max() == 1
  dark, light = got[:, 0, 0, 0, 0], got[:, 0, 1, 0, 0]
  shift = np.where(dark > 0.01, dark - 0.01, light - 0.99)
  want = np.clip(0.99 + shift, 0, 1)[:, None].repeat(3, 1)
  near(got[:, 1, 1, 1], want, atol=1e-6)
  # Cut between a shift and a change of contrast, the pixels are others.
  ends, each = (draw(brightness=0.2, contrast=0.9, clip=c) for c in ("end", "each"))
  assert np.abs(ends - each).max() > 1e-2


def test_chances_are_those_asked_for():
  frames = clip(2, 4, 4)
  for change in (colours.jitter, colours.grey, colours.solarise):
    run = jax.jit(jax.vmap(functools.partial(change, frames=frames, p=0.3)))
    got = np.array(run(KEYS))
    same = (got == frames).all((1, 2, 3, 4))
    assert 0.22 < 1 - same.mean() < 0.38, change


def test_grey_and_solarise_against_loops():
  frames = clip()
  near(colours.grey(KEYS[0], frames, 1.0), reference.grey(frames))
  np.testing.assert_array_equal(colours.grey(KEYS[0], frames, 0.0), frames)
  frames[0, 0, 0] = [0.5, 0.49, 0.51]
  want = np.array([x if x < 0.5 else 1 - x for x in frames.ravel()])
  near(colours.solarise(KEYS[0], frames, 1.0), want.reshape(frames.shape))


@pytest.mark.parametrize(("kernel", "reach"), [(5, 2), (4, 2), (None, 1)])
@pytest.mark.parametrize("edges", ["zeros", "edge"])
def test_blur_against_loops(kernel, reach, edges):
  frames = clip(2, 20, 6)
  got = colours.blur(KEYS[0], frames, 1.0, (0.8, 0.8), kernel, edges=edges)
  for one, picture in zip(got, frames, strict=True):
    near(one, reference.blur(picture, 0.8, reach, edges))
  np.testing.assert_array_equal(colours.blur(KEYS[0], frames, 0.0), frames)


def test_blur_draws_its_width():
  """The middle of a blurred point tells sigma."""
  frames = np.zeros((1, 11, 11, 3), np.float32)
  frames[0, 5, 5] = 1.0
  run = jax.jit(jax.vmap(lambda key: colours.blur(key, frames, 1.0, (0.5, 2.0), 11)))
  got = np.array(run(KEYS))[:, 0, 5, :, 0]
  sigma = np.sqrt(0.5 / np.log(got[:, 5] / got[:, 6]))
  assert 0.499 < sigma.min() < 0.55
  assert 1.9 < sigma.max() < 2.001


# ----- views


SIMCLR = dict(
  size=8,
  crop={},
  flip={},
  jitter=colours.simclr(),
  grey={},
  blur=dict(kernel=3),
  solarise={},
)


def test_a_view_is_its_changes_in_turn_with_keys_of_their_own():
  frames = clip()
  view = lambda **given: np.array(pixels.view(KEYS[3], frames, **given))
  cropped = view(size=8, crop={})
  assert cropped.shape == (2, 8, 8, 3)
  near(view(size=8), crops.resize(frames, 8))
  # The crop is the same whatever follows it.
  late = pixels.view(
    KEYS[3], cropped, size=8, jitter=dict(p=1.0), blur=dict(p=1.0, kernel=3)
  )
  near(
    view(size=8, crop={}, jitter=dict(p=1.0), blur=dict(p=1.0, kernel=3)),
    late,
    atol=1e-5,
  )
  assert np.abs(late - cropped).max() > 1e-3


def test_views_of_rows_depend_on_their_keys_only():
  rows = np.stack([clip(seed=i) for i in range(4)])
  run = jax.jit(jax.vmap(lambda key, x: pixels.view(key, x, **SIMCLR)))
  got = np.array(run(KEYS[:4], rows))
  assert got.dtype == np.float32
  assert got.min() >= 0
  assert got.max() <= 1 + 1e-6
  order = np.array([2, 0, 3, 1])
  near(run(KEYS[:4][order], rows[order]), got[order])
  near(run(KEYS[2:6], rows[[2, 3, 0, 0]])[:2], got[2:])
  # The same draw for all frames: equal frames stay equal.
  still = np.repeat(rows[:, :1], 2, axis=1)
  out = np.array(run(KEYS[:4], still))
  near(out[:, 1], out[:, 0])


def test_mistakes_are_told():
  frames = clip()
  with pytest.raises(UserError, match="Did you mean 'area'"):
    pixels.view(KEYS[0], frames, size=4, crop=dict(aera=(0.5, 1.0)))
  with pytest.raises(ValueError, match="not by both"):
    pixels.view(KEYS[0], frames, size=4, crop={}, scale={})
  with pytest.raises(ValueError, match="order"):
    colours.jitter(KEYS[0], frames, order=("hue",))
  with pytest.raises(ValueError, match="edges"):
    colours.blur(KEYS[0], frames, edges="wrap")
