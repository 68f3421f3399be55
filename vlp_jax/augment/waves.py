"""Changes of one sound [S] of float samples, about -1..1; nothing is cut to that range.

Shapes that come out are static: `jax.vmap` over rows with a key for each. Silence is 0
and stays so.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from vlp_jax import resolve


def gain(
  key: jax.Array, samples: jax.Array, db: tuple[float, float] = (-6.0, 6.0)
) -> jax.Array:
  """Louder or softer by decibels uniform in the range: x * 10^(g / 20)."""
  return samples * 10.0 ** (_uniform(key, *db) / 20.0)


def crop(key: jax.Array, samples: jax.Array, size: int) -> jax.Array:
  """A window of `size` samples at any place.

  Raises: ValueError where the sound is shorter than the window.
  """
  if size > len(samples):
    raise ValueError(f"a window of {size} samples in a sound of {len(samples)}.")
  start = jax.random.randint(key, (), 0, len(samples) - size + 1)
  return jax.lax.dynamic_slice_in_dim(samples, start, size)


def shift(key: jax.Array, samples: jax.Array, most: int = 1600) -> jax.Array:
  """Moved by -most .. most samples, uniform; silence comes in at the other end."""
  by = jax.random.randint(key, (), -most, most + 1)
  wide = jnp.pad(samples, most)
  return jax.lax.dynamic_slice_in_dim(wide, most - by, len(samples))


def speed(
  key: jax.Array,
  samples: jax.Array,
  factors: tuple[float, float] = (0.9, 1.1),
  size: int | None = None,
) -> jax.Array:
  """Faster or slower, pitch and all: y[i] = x(f i), linear between samples.

  Args:
    factors: f, uniform; 2 is an octave up, with no filter against aliases.
    size: samples that come out, those that go in by default. Behind the end of the
      sound there is silence.
  """
  samples, last = jnp.asarray(samples), len(samples) - 1
  at = jnp.arange(size or len(samples)) * _uniform(key, *factors)
  low = jnp.floor(at).astype(jnp.int32)
  x, y = (samples[jnp.minimum(i, last)] for i in (low, low + 1))
  return jnp.where(at <= last, x + (at - low) * (y - x), 0.0)


def equalise(
  key: jax.Array,
  samples: jax.Array,
  db: float = 4.0,
  knots: int = 9,
  band: float = 0.0,
) -> jax.Array:
  """Another colour: frequencies louder and softer, as in another voice, room or phone.

  Args:
    db: deviation of the normal gains at `knots` even places from 0 to half the sampling
      rate, straight in decibels between.
    band: a part of the spectrum, anywhere and uniform from 0 to this wide, is 26 dB
      softer besides.
  """
  gain_key, width_key, place_key = jax.random.split(key, 3)
  place = jnp.linspace(0.0, 1.0, len(samples) // 2 + 1)
  gains = db * jax.random.normal(gain_key, (knots,))
  level = jnp.interp(place, jnp.linspace(0.0, 1.0, knots), gains)
  wide = _uniform(width_key, 0.0, band)
  low = _uniform(place_key, 0.0, 1.0) * (1.0 - wide)
  level = jnp.where((place >= low) & (place < low + wide), level - 26.0, level)
  spectrum = jnp.fft.rfft(samples) * 10.0 ** (level / 20.0)
  return jnp.fft.irfft(spectrum, n=len(samples))


def noise(
  key: jax.Array, samples: jax.Array, snr_db: tuple[float, float] = (5.0, 30.0)
) -> jax.Array:
  """White Gaussian noise added, at a signal-to-noise ratio uniform in decibels.

  The power of the signal is the mean square of all S samples.
  """
  level_key, noise_key = jax.random.split(key)
  power = jnp.square(samples).mean() * 10.0 ** (-_uniform(level_key, *snr_db) / 10.0)
  return samples + jnp.sqrt(power) * jax.random.normal(noise_key, samples.shape)


def polarity(key: jax.Array, samples: jax.Array, p: float = 0.5) -> jax.Array:
  """-x, with chance p."""
  return jnp.where(jax.random.bernoulli(key, p), -samples, samples)


GEOMETRY = ("speed", "crop", "shift")  # what moves samples, and their mask with them
_CHANGES = {  # name -> function; the order of `view`
  "speed": speed,
  "crop": crop,
  "shift": shift,
  "equalise": equalise,
  "gain": gain,
  "polarity": polarity,
  "noise": noise,
}


def view(
  key: jax.Array,
  samples: jax.Array,
  *,
  speed: Mapping | None = None,
  crop: Mapping | None = None,
  shift: Mapping | None = None,
  equalise: Mapping | None = None,
  gain: Mapping | None = None,
  polarity: Mapping | None = None,
  noise: Mapping | None = None,
) -> jax.Array:
  """The changes that the keywords ask for, in this order, each with its own key.

  Args:
    samples: [S] float.
    speed, crop, ..., noise: keywords of the function of that name; {} for its
      defaults, None to leave it out.
  Raises: UserError for a keyword that the change does not know.
  """
  given = dict(
    speed=speed,
    crop=crop,
    shift=shift,
    equalise=equalise,
    gain=gain,
    polarity=polarity,
    noise=noise,
  )
  for i, (name, settings) in enumerate(given.items()):
    if settings is not None:
      fn = resolve.bind(_CHANGES[name], settings, skip=2, what=f"view.{name}")
      samples = fn(jax.random.fold_in(key, i), samples)
  return samples


def _uniform(key, low, high):
  return jax.random.uniform(key, (), minval=low, maxval=high)
