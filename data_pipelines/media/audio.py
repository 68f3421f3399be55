"""Sound tracks as int16 mono samples, aligned to the start of the clip.

Of several sound streams the one with the highest sampling rate is taken, the first
among equals. Time 0 is that of the video (`video.py`), or the first sample of a file
without video: sound that begins later is preceded by zeros, earlier sound is cut.
"""

import av
import numpy as np

from data_pipelines.media import video


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

  Raises: MediaError if the file cannot be decoded or its header declares too much.
  """
  wanted = None if end_s is None else max(0, round((end_s - start_s) * rate_hz))
  with video.opened(path) as container:
    info = video.describe(container)
    a = video.choose_audio(container, stream)
    if a is None:
      return None
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
    if skip is None:
      return None  # a declared stream that holds nothing is no sound
    parts += [out.to_ndarray().reshape(-1) for out in resampler.resample(None)]
  pcm = np.concatenate(parts)[max(0, skip) :]
  return np.ascontiguousarray(pcm[:wanted], np.int16)
