"""Sound tracks as int16 mono samples, aligned to the start of the clip.

Of several sound streams the one with the highest sampling rate is taken, the first
among equals. Time 0 is that of the video (`video.py`), or the first sample of a file
without video: sound that begins later is preceded by zeros, earlier sound is cut.

Decoders read a file that was cut without a word. It is refused where that shows: by the
length that a WAV, MP3 or video header declares, or by half a page at the end of an Ogg.
"""

import pathlib
import struct

import av
import numpy as np

from data_pipelines import media
from data_pipelines.media import video

_STREAMED = (0, 0xFFFFFFFF)  # sizes of a WAV that was written into a pipe
_PAGE = 65_307  # bytes of an Ogg page at most


def samples(
  path,
  *,
  rate_hz: int = 16_000,
  start_s: float = 0.0,
  end_s: float | None = None,
  stream: int | None = None,
) -> np.ndarray | None:
  """[S] int16 mono at `rate_hz`, or None if the file has no sound.

  The end is not padded: S / rate_hz may be less than end_s - start_s.

  Args:
    path: a file, or the bytes of one.
  Raises: MediaError if the file cannot be decoded, is cut off, or its header declares
    too much.
  """
  wanted = None if end_s is None else max(0, round((end_s - start_s) * rate_hz))
  with video.opened(path) as container:
    info = video.describe(container)
    a = video.choose_audio(container, stream)
    if a is None:
      return None
    _check_whole(container, path)
    a.codec_context.thread_count = 1
    zero = info.start_s + start_s
    if start_s > 0:
      # A little earlier: transform codecs need the frame before to be right.
      container.seek(int(max(0.0, zero - 0.2) / a.time_base), stream=a, backward=True)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=rate_hz)
    parts, have, skip = [], 0, None
    for frame in container.decode(a):
      if skip is None:
        first = zero if frame.time is None else float(frame.time)
        skip = round((zero - first) * rate_hz)  # negative: silence before the sound
        have = -max(0, skip)
        if skip < 0:
          parts.append(np.zeros(-skip, np.int16))
          have = -skip
      frame.pts = None  # gaps of a few samples between frames are rounding
      for out in resampler.resample(frame):
        parts.append(out.to_ndarray().reshape(-1))
        have += len(parts[-1])
      if wanted is not None and have >= wanted:
        break
      if have > video.MAX_SECONDS * rate_hz:  # whatever the header says
        raise media.MediaError(f"{info.path}: over {video.MAX_SECONDS:.0f} s of sound.")
    else:
      _check_end(info, a, start_s + (have or 0) / rate_hz)
    if skip is None:
      return None  # a declared stream that holds nothing is no sound
    parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(None)]
  pcm = np.concatenate(parts)[max(0, skip) :]
  return np.ascontiguousarray(pcm[:wanted], np.int16)


def trim(pcm: np.ndarray, *, rate_hz: int, db: float, window_s: float = 0.02):
  """The part of a recording between its first and last loud moment.

  Args:
    pcm: [S] int16.
    db: a moment is loud if the mean square over the window around it is at most so far
      below that of the loudest; 30 to 40 for speech.
  Returns: [s] int16, a view; all of it where there is nothing but silence.
  """
  width = max(1, round(window_s * rate_hz))
  total = np.cumsum(np.pad(pcm.astype(np.float64) ** 2, (width // 2 + 1, width)))
  power = (total[width:] - total[:-width])[: len(pcm)]
  loud = np.flatnonzero(power > power.max() * 10.0 ** (-db / 10.0))
  return pcm[loud[0] : loud[-1] + 1] if len(loud) else pcm


def _check_end(info, a, end_s) -> None:
  """Raises if the sound ends, `end_s` after time 0, before its declared duration."""
  if not a.duration:
    return
  first = (a.start_time or 0) * a.time_base - info.start_s
  declared = float(first + a.duration * a.time_base)
  if end_s < declared - 1.0 - 0.05 * declared:
    raise media.MediaError(
      f"{info.path}: cut off, {end_s:.2f} s of the declared {declared:.2f} s of sound."
    )


def _check_whole(container, source) -> None:
  """Raises for a WAV shorter than its header says and for an Ogg with half a page."""
  kind = container.format.name
  if kind not in ("wav", "ogg"):
    return
  if isinstance(source, bytes):
    size = len(source)
    read = lambda at, n: source[at : at + n]
  else:
    size = pathlib.Path(source).stat().st_size

    def read(at, n):
      with open(source, "rb") as f:
        f.seek(at)
        return f.read(n)

  end = _wav_end(read, size) if kind == "wav" else _ogg_end(read, size)
  if end > size:
    raise media.MediaError(f"{container.name}: cut off, {size} of {end} bytes.")


def _wav_end(read, size) -> int:
  """Where the sound of a RIFF file should end."""
  at = 12
  while at + 8 <= size:
    name, length = struct.unpack("<4sI", read(at, 8))
    if name == b"data":
      return size if length in _STREAMED else at + 8 + length
    at += 8 + length + length % 2
  return at


def _ogg_end(read, size) -> int:
  """Where the last page should end; what follows a whole page may be anything."""
  tail = read(max(0, size - 2 * _PAGE), 2 * _PAGE)
  at = tail.rfind(b"OggS")
  head = tail[at : at + 27]
  if at < 0 or len(head) < 27:
    return size + 1
  table = tail[at + 27 : at + 27 + head[26]]
  return size - len(tail) + at + 27 + head[26] + sum(table)
