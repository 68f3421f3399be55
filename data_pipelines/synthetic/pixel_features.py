"""Features of generated clips in the form of HowTo100M's: .npy files at 1/s and 1.5/s.

Not learned: "2D" is the mean colour on a grid, "3D" the mean colour and its change
within the time of a feature. Both have unit norm and are float16, as that extractor
stores them.
"""

import json
import pathlib

import numpy as np

from data_pipelines.media import video

RATES = {"2d": 1.0, "3d": 1.5}
GRID = 4
_FRAMES_HZ = 6.0  # a whole number of frames for both rates


def of_frames(frames: np.ndarray, step: int, moving: bool) -> np.ndarray:
  """[ceil(t / step), D] float16 of frames [t, H, W, 3] uint8.

  D = 3 GRID^2, or twice that with `moving`.
  """
  cut = [s // GRID * GRID for s in frames.shape[1:3]]
  x = frames[:, : cut[0], : cut[1]].astype(np.float32) / 255
  t, h, w, _ = x.shape
  cells = x.reshape(t, GRID, h // GRID, GRID, w // GRID, 3).mean(axis=(2, 4))
  cells = cells.reshape(t, -1)
  out = []
  for k in range(0, t, step):
    part = cells[k : k + step]
    value = part.mean(axis=0)
    if moving:
      value = np.concatenate([value, part.std(axis=0)])
    out.append(value / max(float(np.linalg.norm(value)), 1e-12))
  return np.stack(out).astype(np.float16)


def write(corpus, out) -> list[dict]:
  """`out/2d/<clip>.npy` and `out/3d/<clip>.npy` of a generated corpus; its rows."""
  corpus, out = pathlib.Path(corpus), pathlib.Path(out)
  rows = [
    json.loads(line)
    for file in sorted(corpus.glob("*.jsonl"))
    for line in file.read_text().splitlines()
  ]
  for name in RATES:
    (out / name).mkdir(parents=True, exist_ok=True)
  for row in rows:
    shown = video.frames(corpus / row["video"], rate_hz=_FRAMES_HZ)
    frames = np.stack([pixels for _, pixels in shown])
    for name, rate in RATES.items():
      made = of_frames(frames, round(_FRAMES_HZ / rate), name == "3d")
      np.save(out / name / f"{row['clip_id']}.npy", made)
  return rows
