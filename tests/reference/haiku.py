"""Haiku-shaped weights of MMV that follow from their names, as the golden has them."""

import zlib

import numpy as np


def draw(key, shape):
  """The generator that belongs to a name, and the shape as a tuple."""
  return np.random.RandomState(zlib.crc32(key.encode()) & 0x7FFFFFFF), tuple(shape)


def _small(key, shape):
  rng, shape = draw(key, shape)
  if len(shape) <= 1:
    return 0.1 * rng.randn(*shape)
  return rng.randn(*shape) / np.sqrt(np.prod(shape[1:]))


def one(module, name, shape, state=False):
  """An entry by its module's path and its own name."""
  key = f"{module}/{name}"
  rng, shape = draw(key, shape)
  if state and name != "average":  # counters and hidden averages are not used
    return np.zeros(shape, np.float32)
  if name == "embeddings":
    x = _small("words", shape)
  elif state:
    x = 0.5 + rng.rand(*shape) if "var" in module else 0.1 * _small(key, shape)
    x = x.astype(np.float32)
  elif name == "w" and len(shape) > 1:
    x = rng.randn(*shape) / np.sqrt(np.prod(shape[:-1]))
  else:
    x = (1.0 if name == "scale" else 0.0) + 0.1 * rng.randn(*shape)
  return np.asarray(x, np.float32)


def arrays(meta):
  """All entries that a golden lists under `params` and `state`, named as in a file."""
  out = {}
  for group in ("params", "state"):
    for path, shape in meta[group].items():
      module, name = path.rsplit("/", 1)
      out[f"{group}/{path}"] = one(module, name, shape, group == "state")
  return out
