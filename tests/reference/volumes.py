"""Convolution, pooling, folding and colour counts over [B, T, H, W, C], in loops."""

import itertools

import numpy as np


def conv3d(x, kernel, strides, padding):
  """Cross-correlation of [B, T, H, W, I] with [t, h, w, I, O], zeros around."""
  x = np.pad(x, [(0, 0), *padding, (0, 0)])
  size = [
    (n - k) // s + 1
    for n, k, s in zip(x.shape[1:4], kernel.shape[:3], strides, strict=True)
  ]
  out = np.zeros((len(x), *size, kernel.shape[-1]))
  for b, t, h, w in itertools.product(range(len(x)), *map(range, size)):
    for i, j, k in itertools.product(*map(range, kernel.shape[:3])):
      at = x[b, t * strides[0] + i, h * strides[1] + j, w * strides[2] + k]
      out[b, t, h, w] += at @ kernel[i, j, k]
  return out


def first_and_count(size, k, stride, padding):
  """Index of the first window and the number of windows of one axis."""
  if padding == "tf":  # SAME
    count = (size + stride - 1) // stride
    missing = max((count - 1) * stride + k - size, 0)
    return -(missing // 2), count
  # ConstantPad by k - stride, the larger half behind, then a pool with ceil_mode.
  more = max(k - stride, 0)
  padded = size + more
  count = int(np.ceil((padded - k) / stride)) + 1
  return -(more // 2), count


def max_pool(x, window, strides, padding):
  """Maximum over windows of non-negative x; what lies outside does not count."""
  axes = [
    first_and_count(n, k, s, padding)
    for n, k, s in zip(x.shape[1:4], window, strides, strict=True)
  ]
  out = np.zeros((len(x), *[count for _, count in axes], x.shape[-1]))
  for at in itertools.product(*[range(count) for _, count in axes]):
    cut = []
    for place, (first, _), k, s, n in zip(
      at, axes, window, strides, x.shape[1:4], strict=True
    ):
      low = first + place * s
      cut.append(slice(max(low, 0), min(low + k, n)))
    out[(slice(None), *at)] = x[(slice(None), *cut)].max((1, 2, 3))
  return out


def space_to_depth(x, block):
  """Channels in the order (dt, dh, dw, c)."""
  t, h, w = block
  size = (x.shape[1] // t, x.shape[2] // h, x.shape[3] // w)
  out = np.zeros((len(x), *size, t * h * w * x.shape[-1]), x.dtype)
  for i, j, k in itertools.product(*map(range, size)):
    cube = x[:, i * t : i * t + t, j * h : j * h + h, k * w : k * w + w]
    out[:, i, j, k] = cube.reshape(len(x), -1)
  return out


def colour_histogram(frames, mask, bins):
  """Shares of the colours of real frames, each pixel in the cell that it falls into."""
  out = np.zeros((len(frames), bins, bins, bins))
  for b, clip in enumerate(frames):
    for frame, real in zip(clip, mask[b], strict=True):
      for pixel in frame.reshape(-1, 3) if real else ():
        out[(b, *(int(v) * bins // 256 for v in pixel))] += 1
  total = out.sum((1, 2, 3), keepdims=True)
  return (out / np.maximum(total, 1)).reshape(len(frames), -1)
