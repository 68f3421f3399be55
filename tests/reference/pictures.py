"""Changes of pictures and sounds, pixel by pixel in numpy and colorsys."""

import colorsys
import itertools

import numpy as np


def bilinear(picture, size, top=0, left=0, rows=None, columns=None):
  """A crop [rows, columns] of [H, W, C], resized to `size` between pixel centres."""
  rows, columns = rows or picture.shape[0], columns or picture.shape[1]
  crop = picture[top : top + rows, left : left + columns].astype(np.float64)
  out = np.zeros((*size, picture.shape[2]))
  for i, j in itertools.product(*map(range, size)):
    y, x = (i + 0.5) * rows / size[0] - 0.5, (j + 0.5) * columns / size[1] - 0.5
    out[i, j] = at(crop, y, x)
  return out


def at(picture, y, x):
  """The pixel at (y, x), fractions of a pixel; the edge goes on outside."""
  height, width = picture.shape[:2]
  y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
  i, j = int(y), int(x)
  k, n = min(i + 1, height - 1), min(j + 1, width - 1)
  above = picture[i, j] * (1 - (x - j)) + picture[i, n] * (x - j)
  below = picture[k, j] * (1 - (x - j)) + picture[k, n] * (x - j)
  return above * (1 - (y - i)) + below * (y - i)


def in_hsv(frames, change):
  """`change(h, s, v) -> (h, s, v)` of every pixel."""
  out = np.zeros(frames.shape)
  for place in np.ndindex(frames.shape[:-1]):
    h, s, v = change(*colorsys.rgb_to_hsv(*map(float, frames[place])))
    out[place] = colorsys.hsv_to_rgb(h % 1.0, min(max(s, 0.0), 1.0), v)
  return out


def saturation(frames, factor):
  return in_hsv(frames, lambda h, s, v: (h, s * factor, v))


def hue(frames, turn):
  return in_hsv(frames, lambda h, s, v: (h + turn, s, v))


def contrast(frames, factor):
  out = np.zeros(frames.shape)
  for t, c in itertools.product(range(len(frames)), range(3)):
    mean = frames[t, :, :, c].mean()
    out[t, :, :, c] = (frames[t, :, :, c] - mean) * factor + mean
  return out


def grey(frames):
  return np.repeat(np.dot(frames, [0.2989, 0.587, 0.114])[..., None], 3, axis=-1)


def blur(picture, sigma, reach, edges):
  """[H, W, C], a Gaussian window of 2 * reach + 1 pixels over both axes at once."""
  height, width, _ = picture.shape
  offsets = range(-reach, reach + 1)
  total = sum(np.exp(-d * d / (2 * sigma * sigma)) for d in offsets)
  out = np.zeros(picture.shape)
  for i, j, a, b in itertools.product(range(height), range(width), offsets, offsets):
    y, x = i + a, j + b
    if edges == "edge":
      y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    if 0 <= y < height and 0 <= x < width:
      weight = np.exp(-(a * a + b * b) / (2 * sigma * sigma)) / total**2
      out[i, j] += weight * picture[y, x]
  return out


def faster(samples, factor, size):
  """y[i] = x(factor * i), silence behind the end."""
  out = np.zeros(size)
  for i in range(size):
    where = factor * i
    if where <= len(samples) - 1:
      low = int(where)
      high = min(low + 1, len(samples) - 1)
      out[i] = samples[low] + (where - low) * (samples[high] - samples[low])
  return out
