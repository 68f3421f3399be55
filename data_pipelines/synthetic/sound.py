"""What a clip sounds like: timbre by shape, pitch by colour, rhythm by action.

  s(t) = e(c(t)) * sum_h w_h(shape) sin(2 pi h f(colour) t) + noise

with the motion's own cycles c, so sound and picture are in step and the sound of a
mirrored action is the other one backwards. Pitches lie a factor 1.31 apart (no two are
an octave), each clip is out of tune by up to 2 %, and the noise is 8 to 26 dB below.
"""

import numpy as np

from data_pipelines.synthetic import motion, world

HARMONICS = {  # weights of the first six
  "circle": (1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
  "square": (1.0, 0.0, 0.5, 0.0, 0.33, 0.0),
  "triangle": (1.0, 0.5, 0.33, 0.25, 0.2, 0.17),
  "star": (0.3, 0.0, 0.0, 1.0, 0.0, 0.6),
  "cross": (1.0, 0.0, 0.0, 0.0, 0.9, 0.0),
  "ring": (0.5, 1.0, 0.0, 0.0, 0.0, 0.0),
  "heart": (0.2, 0.8, 0.8, 0.0, 0.0, 0.0),
  "crescent": (0.7, 0.0, 0.0, 0.0, 0.0, 1.0),
}
PITCH_HZ = {colour: 190.0 * 1.31**k for k, colour in enumerate(world.COLOURS)}


def _beats(c: np.ndarray, per_cycle: int, decay: float) -> np.ndarray:
  """Struck sounds, `per_cycle` of them, the first of each cycle louder."""
  beat = c * per_cycle
  first = np.floor(beat) % per_cycle == 0
  return np.where(first, 1.0, 0.6) * np.exp(-decay * (beat - np.floor(beat)))


def envelope(path: str, c: np.ndarray) -> np.ndarray:
  """Loudness in 0..1 at the cycles `c` [S] of a path of `motion.PATHS`."""
  part = c - np.floor(c)
  match path:
    case "slide_x":
      return _beats(c, 5, 4.0)
    case "slide_y":
      return _beats(c, 9, 4.0)
    case "scale":  # as loud as the thing is large
      return 0.1 + 0.9 * part**2
    case "turn":  # long, short, long, short
      beat = part * 4 % 1
      return np.where(beat < 0.62, np.exp(-3 * beat), 0.5 * np.exp(-9 * (beat - 0.62)))
    case "bounce":  # one knock at each landing
      return np.exp(-7 * part)
    case "blink":
      return np.where(part < 0.6, 1.0, 0.0)
    case "shake":
      return np.abs(np.sin(2 * np.pi * c))
    case "orbit":
      return 0.55 + 0.45 * np.cos(2 * np.pi * c)
  raise ValueError(f"no rhythm for the path {path!r}")


def tone(
  combo: world.Combo,
  moving: motion.Motion,
  rng: np.random.Generator,
  *,
  duration_s: float,
  rate_hz: int,
) -> np.ndarray:
  """[S] int16, S = duration_s * rate_hz, of a subject that moves as `moving`."""
  t = np.arange(round(duration_s * rate_hz)) / rate_hz
  loud = envelope(moving.path, moving.cycles(t - duration_s / 2))
  ramp = np.hanning(rate_hz // 200)  # 5 ms: an onset without a click
  loud = np.convolve(loud, ramp / ramp.sum(), mode="same")
  wave = 2 * np.pi * PITCH_HZ[combo.colour] * rng.uniform(0.98, 1.02) * t
  weights = np.array(HARMONICS[combo.shape])
  phases = rng.uniform(0, 2 * np.pi, len(weights))
  out = sum(
    w * np.sin(h * wave + phases[h - 1]) for h, w in enumerate(weights, 1) if w > 0
  )
  out = loud * out / np.sqrt((weights**2).sum() / 2)
  level = np.sqrt((out**2).mean()) * 10 ** (-rng.uniform(8, 26) / 20)
  out = (out + level * rng.standard_normal(len(t))) * rng.uniform(0.08, 0.2)
  return np.round(np.clip(out, -1, 1) * 32767).astype(np.int16)
