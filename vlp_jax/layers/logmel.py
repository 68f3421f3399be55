"""Log-mel spectrograms on device, as the audio networks of 2018-2022 read them.

  mel = |STFT(x)| @ W,   logmel = log(mel + a)  or  log(1 + b mel)

with a periodic Hann window and the magnitude (not the power). Frame k starts at sample
k * hop and zeros follow the end, so that there are ceil(S / hop) frames. W holds HTK
triangles without area normalisation; bin 0 weighs nothing. `FRONT_ENDS` has the
published settings: they agree with TensorFlow's `signal` to 1e-4 in `mel`, and in
`logmel` where mel > 1e-2 (near silence float32 itself differs by up to 7e-3).

`brave` at 48 kHz leaves 16 of its 80 filters empty, since a bin is 150 Hz wide. It is
kept for published weights; `brave16k` has the same numbers at 16 kHz, none empty.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from vlp_jax.metrics import wide


@dataclasses.dataclass(frozen=True)
class FrontEnd:
  """Settings of a spectrogram.

  Attributes:
    rate_hz: sampling rate that the numbers below are meant for.
    window, hop, fft: in samples; a frame of `window` is followed by zeros up to `fft`.
    mels: filters between low_hz and high_hz; 0 keeps all fft // 2 + 1 linear bins.
    log: "add" log(m + constant), "one_plus" log(1 + constant m), "floor"
      log(max(m, constant)).
    scale: of the result.
  """

  rate_hz: int
  window: int
  hop: int
  fft: int
  mels: int = 0
  low_hz: float = 0.0
  high_hz: float = 0.0
  log: str = "add"
  constant: float = 1e-6
  scale: float = 1.0

  @property
  def bins(self) -> int:
    """Columns of the spectrogram."""
    return self.mels or self.fft // 2 + 1

  def frames(self, samples: int) -> int:
    """Rows of the spectrogram of so many samples."""
    return -(-samples // self.hop)


_BRAVE = dict(window=320, hop=160, fft=320, mels=80, low_hz=80.0, high_hz=7600.0)
_L3 = dict(window=480, fft=512, log="floor", constant=1e-12, scale=0.2)
FRONT_ENDS = {
  "mmv": FrontEnd(48_000, 2048, 1024, 2048, 80, 80.0, 7600.0),
  # Ours: 40 ms every 20 ms, for sound stored at 16 kHz.
  "mmv16k": FrontEnd(16_000, 640, 320, 1024, 80, 80.0, 7600.0),
  "brave": FrontEnd(48_000, **_BRAVE, log="one_plus", constant=1e4),
  "brave16k": FrontEnd(16_000, **_BRAVE, log="one_plus", constant=1e4),
  # The source says "log" only; the additive constant is ours.
  "xdc": FrontEnd(16_000, 256, 160, 256, 40, 0.0, 8000.0),
  "l3": FrontEnd(48_000, hop=242, **_L3),  # 199 frames of 257 bins a second
  "ave": FrontEnd(48_000, hop=240, **_L3),  # AVE-Net and AVOL-Net: 200 frames
  # Ours: 25 ms every 10 ms, for speech stored at 8 kHz.
  "speech8k": FrontEnd(8_000, 200, 80, 256, 40, 60.0, 4000.0, constant=1e-4),
}
NORMS = ("none", "example", "bins")


def front_end(name: str) -> FrontEnd:
  """The settings called `name`; ValueError with the known names."""
  if name not in FRONT_ENDS:
    raise ValueError(f"front_end is {name!r}; known: {', '.join(FRONT_ENDS)}.")
  return FRONT_ENDS[name]


@functools.cache
def mel_matrix(
  mels: int, bins: int, rate_hz: int, low_hz: float, high_hz: float
) -> np.ndarray:
  """W [bins, mels] float32: triangles, equally wide on the HTK mel scale.

    mel(f) = 1127 log(1 + f / 700)

  Slopes are straight in mel, not in Hz. Row 0, the constant, is zero. All of it is
  float32, as in the published front ends: in float64 narrow filters differ by 1e-5.
  """
  one = np.float32
  log = lambda x: np.log(x.astype(np.float64)).astype(one)  # rounded once
  mel = lambda f: one(1127) * log(one(1) + f / one(700))
  at = mel(np.linspace(0, rate_hz / 2, bins, dtype=one))[:, None]
  edges = np.linspace(mel(one(low_hz)), mel(one(high_hz)), mels + 2, dtype=one)
  low, centre, high = edges[:-2], edges[1:-1], edges[2:]
  up, down = (at - low) / (centre - low), (high - at) / (high - centre)
  weights = np.maximum(np.minimum(up, down), one(0))
  weights[0] = 0
  return weights


@functools.cache
def _dft(window, fft):
  """[window, fft // 2 + 1, 2]: cosines and sines under the periodic Hann window."""
  n, k = np.arange(window)[:, None], np.arange(fft // 2 + 1)
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / window)
  angle = 2 * np.pi * ((n * k) % fft) / fft
  return np.stack([hann * np.cos(angle), hann * np.sin(angle)], -1).astype(np.float32)


def signal(samples: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  """[B, S] float32 in -1..1: int16 over 32,768, floats as they are, masked ones 0."""
  x = wide(samples) if jnp.issubdtype(samples.dtype, jnp.floating) else samples / 32768
  x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
  return x if mask is None else jnp.where(mask, x, 0.0)


def magnitude(x: jax.Array, s: FrontEnd, *, method: str = "fft") -> jax.Array:
  """|STFT| [B, frames, fft // 2 + 1] of x [B, S].

  Args:
    method: "fft", or "matmul" with the matrix of the transform, for chips on which
      products of matrices are much faster.
  """
  x = _frames(x, s)
  if method == "matmul":
    parts = jnp.einsum("bfn,nkc->bfkc", x, _dft(s.window, s.fft), precision="highest")
    return jnp.sqrt((parts * parts).sum(-1))
  if method != "fft":
    raise ValueError(f"method is {method!r}; give 'fft' or 'matmul'.")
  hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(s.window) / s.window)
  return jnp.abs(jnp.fft.rfft(x * hann.astype(x.dtype), n=s.fft))


def _frames(x, s):
  """Windows [B, frames, window] of x [B, S], the end filled up with zeros."""
  frames = s.frames(x.shape[-1])
  block = math.gcd(s.window, s.hop)
  total = -(-((frames - 1) * s.hop + s.window) // block) * block
  x = jnp.pad(x, ((0, 0), (0, max(total - x.shape[-1], 0))))[:, :total]
  if s.window // block > 16:
    return x[:, np.arange(frames)[:, None] * s.hop + np.arange(s.window)]
  # Slices of blocks: a gather of single samples is slow on accelerators.
  x, step = x.reshape(len(x), -1, block), s.hop // block
  last = (frames - 1) * step + 1
  parts = [x[:, i : i + last : step] for i in range(s.window // block)]
  return jnp.concatenate(parts, axis=-1)


def log_mel(
  samples: jax.Array,
  mask: jax.Array | None = None,
  *,
  settings: FrontEnd,
  method: str = "fft",
) -> dict[str, jax.Array]:
  """The spectrogram of sound.

  Args:
    samples: [B, S] int16, or float in -1..1; settings.rate_hz of them a second.
    mask: [B, S] bool; samples that are not real are silence.
    method: see `magnitude`.
  Returns: logmel, mel [B, F, bins] float32; mask [B, F] bool, frames whose first sample
    is real.
  """
  s = settings
  mel = magnitude(signal(samples, mask), s, method=method)
  if s.mels:
    # 512 frequencies at most and weights in 0..1: the last bits matter after the log.
    weights = mel_matrix(s.mels, s.fft // 2 + 1, s.rate_hz, s.low_hz, s.high_hz)
    mel = jnp.matmul(mel, weights, precision="highest")
  if s.log == "add":
    out = jnp.log(mel + s.constant)
  elif s.log == "one_plus":
    out = jnp.log1p(s.constant * mel)
  elif s.log == "floor":
    out = jnp.log(jnp.maximum(mel, s.constant))
  else:
    raise ValueError(f"log is {s.log!r}; give 'add', 'one_plus' or 'floor'.")
  real = jnp.ones(samples.shape, bool) if mask is None else mask
  return {"logmel": s.scale * out, "mel": mel, "mask": real[:, :: s.hop]}


def normalise(
  logmel: jax.Array, mask: jax.Array, kind: str = "example", eps: float = 1e-5
) -> jax.Array:
  """Mean 0 and variance 1 over the real frames of each example, 0 in the others.

  Args:
    logmel: [B, F, bins]; mask: [B, F] bool, real frames.
    kind: "example", over frames and bins at once, so that loudness goes; "bins", each
      bin by itself, so that the colour of voice and microphone goes too; "none".
    eps: added to the variance.
  """
  if kind not in NORMS:
    raise ValueError(f"normalise is {kind!r}; give one of {NORMS}.")
  if kind == "none":
    return logmel
  real, axes = mask[..., None], (1, 2) if kind == "example" else (1,)
  count = real.sum((1, 2), keepdims=True)
  count = jnp.maximum(count * (logmel.shape[-1] if kind == "example" else 1), 1)
  mean = jnp.where(real, logmel, 0.0).sum(axes, keepdims=True) / count
  centred = jnp.where(real, logmel - mean, 0.0)
  var = jnp.square(centred).sum(axes, keepdims=True) / count
  return centred * jax.lax.rsqrt(var + eps)
