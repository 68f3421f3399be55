"""Generated "spoken" digits in the layout of the free spoken digit dataset.

A digit is a path of two formants through four places, a voice is its pitch, the scale
of its formants, its tempo and its tilt. `<digit>_<speaker>_<take>.wav`, 8 kHz, mono:
a stand-in for real recordings, with the same names and numbers but no data behind them.
"""

import io
import pathlib
import wave

import numpy as np

RATE_HZ = 8_000
SPEAKERS = ("george", "jackson", "lucas", "nicolas", "theo", "yweweler")
_PLACES = 4  # of a digit's path


def write(out, *, takes: int = 3, seed: int = 0) -> None:
  """Writes 10 digits x 6 speakers x `takes` recordings of 0.3 to 0.7 s."""
  out = pathlib.Path(out)
  out.mkdir(parents=True, exist_ok=True)
  digits = np.random.default_rng((seed, 0)).uniform(0.0, 1.0, (10, _PLACES, 2))
  for s, speaker in enumerate(SPEAKERS):
    rng = np.random.default_rng((seed, 1, s))
    voice = rng.uniform((90.0, 0.85, 0.8, 0.5), (220.0, 1.2, 1.2, 2.0))
    for digit, path in enumerate(digits):
      for take in range(takes):
        name = f"{digit}_{speaker}_{take}.wav"
        draw = np.random.default_rng((seed, 2, s, digit, take))
        (out / name).write_bytes(_wav(said(path, voice, draw)))


def said(path: np.ndarray, voice: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Samples [S] in -1..1.

  Args:
    path: [places, 2] in 0..1, where the formants lie.
    voice: pitch in Hz, scale of the formants, tempo, tilt of the harmonics.
  """
  pitch, scale, tempo, tilt = voice
  num = int(RATE_HZ * 0.5 / tempo * rng.uniform(0.9, 1.1))
  at = np.linspace(0, len(path) - 1, num)
  near = [np.interp(at, np.arange(len(path)), p) for p in path.T]
  formants = scale * (300 + 600 * near[0]), scale * (1_000 + 1_500 * near[1])
  phase = 2 * np.pi * np.cumsum(pitch * (1.1 - 0.2 * at / at[-1])) / RATE_HZ
  sound = np.zeros(num)
  for h in range(1, int(3_800 / pitch)):
    gain = sum(np.exp(-(((h * pitch - f) / 180.0) ** 2)) for f in formants)
    sound += (gain + 0.02) * h**-tilt * np.sin(h * phase)
  sound *= np.minimum(1, 10 * np.minimum(at, at[-1] - at))
  sound += 0.01 * np.abs(sound).max() * rng.normal(size=num)
  return rng.uniform(0.3, 0.9) * sound / np.abs(sound).max()


def _wav(samples: np.ndarray) -> bytes:
  file = io.BytesIO()
  with wave.open(file, "wb") as out:
    out.setnchannels(1)
    out.setsampwidth(2)
    out.setframerate(RATE_HZ)
    out.writeframes((32_767 * samples).astype("<i2").tobytes())
  return file.getvalue()
