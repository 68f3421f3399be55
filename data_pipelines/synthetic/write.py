"""Frames and sound to an H.264/AAC mp4 file, the same bytes each time."""

import fractions
import os
import pathlib

import av
import numpy as np

AUDIO_BIT_RATE = 48_000


def mp4(
  path: pathlib.Path,
  frames: np.ndarray,
  rate_hz: float,
  *,
  pcm: np.ndarray | None = None,
  audio_rate_hz: int = 16_000,
) -> None:
  """Writes `frames` [T, H, W, 3] uint8 (even H, W) and mono `pcm` [S] int16.

  One encoder thread and no clock or library version in the file: equal input, equal
  bytes (of one FFmpeg version). The name appears only when the file is whole.
  """
  half = path.with_name(f"{path.name}.tmp-{os.getpid()}")
  exact = {"fflags": "+bitexact"}
  with av.open(str(half), "w", format="mp4", options=exact) as out:
    rate = fractions.Fraction(rate_hz).limit_denominator(1001)
    video = out.add_stream("libx264", rate=rate)
    video.height, video.width = frames.shape[1:3]
    video.pix_fmt, video.gop_size = "yuv420p", 24
    video.codec_context.thread_count = 1
    video.options = {
      "preset": "veryfast",
      "crf": "16",
      "threads": "1",
      "flags": "+bitexact",
      # Small frames: mb-tree's vector code reads past them, other bytes each time.
      "x264-params": "mbtree=0:rc-lookahead=0",
    }
    audio = None
    if pcm is not None:
      audio = out.add_stream("aac", rate=audio_rate_hz, layout="mono")
      audio.bit_rate = AUDIO_BIT_RATE
      audio.options = {"flags": "+bitexact", "aac_coder": "fast"}
    for k, pixels in enumerate(frames):
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      frame.pts, frame.time_base = k, 1 / rate
      out.mux(video.encode(frame))
    out.mux(video.encode())
    if audio is not None:
      sound = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
      sound.sample_rate, sound.pts = audio_rate_hz, 0
      sound.time_base = fractions.Fraction(1, audio_rate_hz)
      out.mux(audio.encode(sound))
      out.mux(audio.encode())
  os.replace(half, path)
