"""Images with Pillow: bounded decoding to RGB, and JPEG encoding.

Size is judged by the header. Alpha channels are dropped, not blended: the colour
channels stay as stored (NLVR's PNGs are opaque RGBA).
"""

import io
import warnings

import numpy as np
from PIL import Image

from data_pipelines import media

MAX_PIXELS = 1 << 26


def decode(source, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
  """[H, W, 3] uint8 RGB of an image file or of its bytes.

  Grey images are repeated over the channels, 16-bit ones keep their upper byte.

  Raises: MediaError for anything that is no whole image of at most `max_pixels`.
  """
  name = "image" if isinstance(source, bytes) else str(source)
  stream = io.BytesIO(source) if isinstance(source, bytes) else source
  try:
    with warnings.catch_warnings():
      warnings.simplefilter("error", Image.DecompressionBombWarning)
      with Image.open(stream) as picture:
        width, height = picture.size
        if width * height > max_pixels:
          raise media.MediaError(
            f"{name}: {width} x {height} pixels; at most {max_pixels} are decoded."
          )
        return _rgb(picture)
  except (Image.DecompressionBombError, Image.DecompressionBombWarning):
    raise media.MediaError(f"{name}: over {max_pixels} pixels.") from None
  except (OSError, SyntaxError, EOFError, MemoryError) as error:
    reason = " ".join(str(error).split())
    raise media.MediaError(f"{name}: no readable image: {reason}.") from None


def _rgb(picture) -> np.ndarray:
  if picture.mode.startswith(("I;16", "I")):
    grey = np.asarray(picture).astype(np.int64).clip(0, 65535) >> 8
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)
  if picture.mode in ("RGBA", "P", "PA", "LA", "RGBa"):
    # Palettes may carry transparency: through RGBA the colours stay as stored.
    return np.ascontiguousarray(np.asarray(picture.convert("RGBA"))[..., :3])
  return np.array(picture.convert("RGB"))


def resize(array: np.ndarray, width: int, height: int) -> np.ndarray:
  """[height, width, 3] uint8, area-averaged, as frames of videos are."""
  if array.shape[:2] == (height, width):
    return array
  picture = Image.fromarray(array).resize((width, height), Image.Resampling.BOX)
  return np.array(picture)


def encode_jpeg(array: np.ndarray, *, quality: int = 95, subsampling: int = 2) -> bytes:
  """JPEG of [H, W, 3] uint8 RGB.

  Args:
    quality: 1..100; 95 is the default of prepared data sets.
    subsampling: of the colour planes, as in Pillow: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
  """
  if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
    raise ValueError(f"{array.dtype}{list(array.shape)} is no [H, W, 3] uint8 image.")
  out = io.BytesIO()
  Image.fromarray(array).save(out, "JPEG", quality=quality, subsampling=subsampling)
  return out.getvalue()
