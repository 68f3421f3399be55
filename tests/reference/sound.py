"""Log-mel spectrograms frame by frame, and residual blocks position by position."""

import math

import numpy as np


def magnitudes(x, window, hop, fft):
  """|STFT| [frames, fft // 2 + 1] of x [S], by the sum that defines it."""
  frames = math.ceil(len(x) / hop)
  out = np.zeros((frames, fft // 2 + 1))
  n = np.arange(window)
  hann = 0.5 * (1 - np.cos(2 * np.pi * n / window))
  for f in range(frames):
    part = np.zeros(window)
    have = x[f * hop : f * hop + window]
    part[: len(have)] = have
    for k in range(fft // 2 + 1):
      out[f, k] = abs((part * hann * np.exp(-2j * np.pi * k * n / fft)).sum())
  return out


def mel_weight(hz, k, mels, low_hz, high_hz):
  """Weight of a frequency in filter k of the HTK scale."""
  mel = lambda f: 1127 * math.log(1 + f / 700)
  step = (mel(high_hz) - mel(low_hz)) / (mels + 1)
  away = abs(mel(hz) - (mel(low_hz) + (k + 1) * step)) / step
  return max(0.0, 1 - away) if hz > 0 else 0.0


def mel(magnitude, rate_hz, mels, low_hz, high_hz):
  """[frames, mels] of magnitudes [frames, bins]."""
  bins = magnitude.shape[1]
  out = np.zeros((len(magnitude), mels))
  for b in range(bins):
    for k in range(mels):
      hz = b * rate_hz / 2 / (bins - 1)
      out[:, k] += magnitude[:, b] * mel_weight(hz, k, mels, low_hz, high_hz)
  return out


def shift(x, n):
  """The published temporal shift of x [T, C]: last n channels first, from t + 1."""
  length, channels = x.shape
  out = np.zeros_like(x)
  for t in range(length):
    for c in range(channels):
      if c < n:
        out[t, c] = x[t + 1, channels - n + c] if t + 1 < length else 0
      elif c >= channels - n:
        out[t, c] = x[t - 1, c - (channels - n)] if t else 0
      else:
        out[t, c] = x[t, c]
  return out


def conv(x, kernel, stride, padding):
  """[N, H, W, I] with [h, w, I, O]; padding ((top, bottom), (left, right))."""
  x = np.pad(x, [(0, 0), *padding, (0, 0)])
  h, w = kernel.shape[:2]
  rows, columns = (x.shape[1] - h) // stride + 1, (x.shape[2] - w) // stride + 1
  out = np.zeros((len(x), rows, columns, kernel.shape[-1]))
  for i in range(rows):
    for j in range(columns):
      cut = x[:, i * stride : i * stride + h, j * stride : j * stride + w]
      out[:, i, j] = np.tensordot(cut, kernel, 3)
  return out


def bottleneck(x, params, stats, stride, n=0, frames=1):
  """A pre-activation bottleneck with running statistics; n channels are shifted."""

  def act(i, x):
    p, s = params[f"bn_{i}"], stats[f"bn_{i}"]
    y = (x - s["mean"]) / np.sqrt(s["var"] + 1e-5) * p["scale"] + p["bias"]
    return np.maximum(y, 0)

  p = act(0, x)
  short = x
  if "shortcut_conv" in params:
    short = conv(p, params["shortcut_conv"]["kernel"], stride, ((0, 0), (0, 0)))
  if n:
    p = p.copy()
    for clip in range(0, len(p), frames):
      for i in range(p.shape[1]):
        for j in range(p.shape[2]):
          p[clip : clip + frames, i, j] = shift(p[clip : clip + frames, i, j], n)
  y = conv(p, params["conv_0"]["kernel"], 1, ((0, 0), (0, 0)))
  size = y.shape[1]
  missing = max((math.ceil(size / stride) - 1) * stride + 3 - size, 0)
  around = (missing // 2, missing - missing // 2)
  y = conv(act(1, y), params["conv_1"]["kernel"], stride, (around, around))
  return short + conv(act(2, y), params["conv_2"]["kernel"], 1, ((0, 0), (0, 0)))
