"""Small trees of files for tests of readers."""

import io
import json
import wave

import numpy as np


def put(root, files):
  """Writes {path: bytes, text, or a value for JSON} below a directory; returns it."""
  for name, content in files.items():
    at = root / name
    at.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, bytes | str):
      content = json.dumps(content)
    at.write_bytes(content if isinstance(content, bytes) else content.encode())
  return root


def wav(samples: np.ndarray, rate: int = 8000) -> bytes:
  """A mono file of int16 samples."""
  out = io.BytesIO()
  with wave.open(out, "wb") as w:
    w.setnchannels(1)
    w.setsampwidth(2)
    w.setframerate(rate)
    w.writeframes(samples.astype("<i2").tobytes())
  return out.getvalue()
