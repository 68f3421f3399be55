"""Frame-exact sampling of video files with PyAV.

Time 0 of a clip is the start of its video stream as the header gives it, and sound is
aligned to it (`audio.py`). At time t the frame is shown whose display interval
[its time, time of the next frame) holds t: what a player shows, whatever the rate,
codec or reordering of frames. Containers round times to ticks (Matroska to 1 ms), so a
frame is also shown at times up to one tick, at most 2 ms, before its own.

Of H.264 in mp4 and Matroska only what is shown, or leads to what is shown, is decoded
(`packets.py`).

Of several video streams the one with the most pixels is taken, the first among equals;
cover pictures do not count. `stream=` overrides this with an index in the container.
"""

import contextlib
import dataclasses
import io
import itertools
import pathlib
from collections.abc import Iterator, Sequence

import av
import av.stream
import numpy as np
from av.video import reformatter

from data_pipelines import media
from data_pipelines.media import packets

MAX_PIXELS = 1 << 26  # of a frame; 8K has half as many
MAX_SECONDS = 4 * 3600.0
EPSILON_S = 1e-6
MAX_TICK_S = 2e-3
# No playlists (HLS, DASH, concat): they make the reader open other files and URLs.
FORMATS = (
  "mov,mp4,matroska,webm,avi,mpeg,mpegts,flv,asf,ogg,mp3,wav,aac,flac,aiff,w64,gif,"
  "3gp,m4a,mj2,amr,rm,dv,mpegvideo,h264,hevc,m4v,ivf,caf,au,ac3,mxf,nut"
)

_PLANAR = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p")
_PICTURES = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails


@dataclasses.dataclass(frozen=True)
class Info:
  """What a header tells. Width and height are as displayed, after rotation.

  Attributes:
    duration_s: of the chosen video stream, else of the container.
    start_s: container time of the clip's time 0.
    rate_hz: mean frames per second, 0 without video.
    num_frames: declared, 0 if the container does not say.
    rotation: degrees counter-clockwise that a player applies, a multiple of 90.
    video, audio: container index of the chosen stream, None without one.
    audio_rate_hz: sampling rate, 0 without sound.
    num_video, num_audio, num_subtitle: numbers of streams (cover pictures left out).
    exact: whether the video stream itself declares its duration.
  """

  path: str
  duration_s: float
  start_s: float
  rate_hz: float
  width: int
  height: int
  num_frames: int
  rotation: int
  codec: str
  video: int | None
  audio: int | None
  audio_rate_hz: int
  num_video: int
  num_audio: int
  num_subtitle: int
  exact: bool


@contextlib.contextmanager
def opened(path, *, quick: bool = False) -> Iterator[av.container.InputContainer]:
  """The open container; whatever PyAV raises inside becomes a one-line MediaError.

  Args:
    path: a file, or the bytes of one (a member of an archive).
    quick: of an mp4 with H.264 believe the header. Opening a file decodes its first
      frame, up to a tenth of the cost of a short clip, to learn what an mp4 says
      anyway: sizes, times, and how far frames are reordered. What the header tells of
      sound may be wrong.
  """
  inside = isinstance(path, bytes)
  with _one_line(path), contextlib.ExitStack() as stack:
    # An absolute path cannot be taken for a URL. Tags of old files that are not UTF-8
    # are no reason to refuse the video.
    at = lambda: io.BytesIO(path) if inside else str(pathlib.Path(path).absolute())
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    if quick and _is_mp4(path):
      least = {"container_options": options | {"probesize": "5000"}}
      least["options"] = {"skip_frame": "all"}  # of the decoder that looks for facts
      container = stack.enter_context(av.open(at(), metadata_errors="replace", **least))
      v = choose_video(container)
      # A fragmented file does not declare its frames, nor how they are reordered.
      if v is not None and v.frames and v.codec_context.name == "h264":
        yield container
        return
      stack.close()
    yield stack.enter_context(
      av.open(at(), metadata_errors="replace", container_options=options)
    )


@contextlib.contextmanager
def _one_line(path):
  try:
    yield
  except av.FFmpegError as error:
    reason = " ".join(str(error.strerror or error).split())
    name = "media" if isinstance(path, bytes) else path
    raise media.MediaError(f"{name}: {reason}.") from None


def _is_mp4(path) -> bool:
  if isinstance(path, bytes):
    return path[4:8] == b"ftyp"
  try:
    with open(path, "rb") as f:
      return f.read(8)[4:] == b"ftyp"
  except OSError:
    return False  # opening it says why


def _videos(container) -> list:
  return [s for s in container.streams.video if not s.disposition & _PICTURES]


def _choose(container, streams, index, key, kind):
  if index is None:
    return max(streams, key=key) if streams else None  # max takes the first of equals
  for s in streams:
    if s.index == index:
      return s
  found = [s.index for s in streams]
  name = container.name
  raise media.MediaError(f"{name}: no {kind} stream {index}; there are {found}.")


def choose_video(container, index: int | None = None):
  """The video stream by the rule of the header of this file, None without one."""
  return _choose(
    container, _videos(container), index, lambda s: s.width * s.height, "video"
  )


def choose_audio(container, index: int | None = None):
  """The sound stream of the highest rate, the first among equals, or None."""
  rate = lambda s: s.codec_context.sample_rate or 0
  return _choose(container, list(container.streams.audio), index, rate, "audio")


def _seconds(value, base) -> float:
  return float(value * base) if value is not None else 0.0


def describe(container, stream: int | None = None) -> Info:
  """`probe` of an open container, without decoding: `rotation` is 0.

  Raises: MediaError for a frame or a duration beyond the limits.
  """
  v, a = choose_video(container, stream), choose_audio(container)
  whole = _seconds(container.duration, 1 / av.time_base)
  main = v or a
  exact = bool(main and main.duration)
  duration = _seconds(main.duration, main.time_base) if exact else whole
  width, height = (v.width, v.height) if v else (0, 0)
  for s in container.streams.video:  # all: the demuxer may decode any of them
    if s.width * s.height > MAX_PIXELS:
      raise media.MediaError(
        f"{container.name}: the header declares {s.width} x {s.height} pixels; at most "
        f"{MAX_PIXELS} are decoded."
      )
  if max(duration, whole) > MAX_SECONDS:
    raise media.MediaError(
      f"{container.name}: the header declares {max(duration, whole):.0f} s; at most "
      f"{MAX_SECONDS:.0f} s are decoded. Cut it into parts."
    )
  return Info(
    path=container.name,
    duration_s=duration,
    start_s=_seconds(main.start_time, main.time_base) if main else 0.0,
    rate_hz=float(v.average_rate or v.guessed_rate or 0) if v else 0.0,
    width=width,
    height=height,
    num_frames=v.frames if v else 0,
    rotation=0,
    codec=v.codec_context.name if v else "",
    video=v.index if v else None,
    audio=a.index if a else None,
    audio_rate_hz=(a.codec_context.sample_rate or 0) if a else 0,
    num_video=len(_videos(container)),
    num_audio=len(container.streams.audio),
    num_subtitle=len(container.streams.subtitles),
    exact=exact,
  )


def probe(path, *, stream: int | None = None) -> Info:
  """What the header tells, and the rotation, which only a decoded frame carries.

  Raises: MediaError if the file is missing, unreadable, a decompression bomb, or its
    video stream does not begin with a frame.
  """
  with opened(path) as container:
    info = describe(container, stream)
    if info.video is None:
      return info
    v = container.streams[info.video]
    v.codec_context.thread_count = 1
    first = next(container.decode(v), None)
    if first is None:
      raise media.MediaError(f"{info.path}: the video stream has no frame.")
    turn = first.rotation // 90 * 90
    size = (info.height, info.width) if turn % 180 else (info.width, info.height)
    return dataclasses.replace(info, rotation=turn, width=size[0], height=size[1])


def scaled(width: int, height: int, size: int | None) -> tuple[int, int]:
  """(width, height) whose short side is `size`; smaller pictures are not enlarged."""
  short = min(width, height)
  if not size or short <= size:
    return width, height
  return max(1, round(width * size / short)), max(1, round(height * size / short))


class _Painter:
  """Pictures of frames, each made at most once, and only if a time falls on it."""

  def __init__(self, size: int | None):
    self.size, self._frame, self._made = size, None, None
    self._scaler = reformatter.VideoReformatter()  # keeps its filters and tables

  def show(self, frame) -> None:
    self._frame, self._made = frame, None

  def picture(self) -> np.ndarray:
    """[H, W, 3] uint8 of the frame, area-averaged to the size, upright."""
    if self._made is None:
      frame = self._frame
      width, height = scaled(frame.width, frame.height, self.size)
      # One process a core: `prepare` runs several.
      to = dict(width=width, height=height, interpolation="AREA", threads=1)
      # At odd widths swscale interpolates colours for each pixel, whatever the format;
      # into planes that is twice as fast, and equal where at least three lines are
      # averaged. At even widths pairs of pixels share their colour in "rgb24" only.
      odd = width % 2 and 2 * frame.height > 3 * height
      form = "gbrp" if odd and frame.format.name in _PLANAR else "rgb24"
      rgb = self._scaler.reformat(frame, format=form, **to).to_ndarray()
      self._made = np.ascontiguousarray(np.rot90(rgb, frame.rotation // 90))
    return self._made


def _timed(frames, v, info) -> Iterator[tuple[float, float, object]]:
  """(time, length, frame) of frames in order of display."""
  step = 1 / info.rate_hz if info.rate_hz else 0.04
  n, d = v.time_base.numerator, v.time_base.denominator
  time = None
  for frame in frames:
    if frame.is_corrupt:
      raise media.MediaError(f"{info.path}: damaged frame after {time or 0.0:.2f} s.")
    if frame.time is not None:
      time = float(frame.time) - info.start_s
    else:  # raw streams and some AVI files carry no times
      time = 0.0 if time is None else time + step
    yield time, frame.duration * n / d if frame.duration else step, frame


def _grid(times, rate_hz, start_s, end_s) -> Iterator[float]:
  """Times asked for, in order; endless if only the end of the video ends them."""
  if times is not None:
    yield from times
    return
  k = 0
  while end_s is None or start_s + k / rate_hz < end_s - EPSILON_S:
    yield start_s + k / rate_hz
    k += 1


def frames(
  path,
  *,
  times: Sequence[float] | None = None,
  rate_hz: float | None = None,
  start_s: float = 0.0,
  end_s: float | None = None,
  size: int | None = None,
  stream: int | None = None,
) -> Iterator[tuple[float, np.ndarray]]:
  """(time in s, [H, W, 3] uint8 RGB) of the frame shown at each time of a grid.

  Args:
    times: increasing times in s; those before the first or after the last frame give
      that frame.
    rate_hz: instead of times: start_s + k / rate_hz below `end_s` and the video's end.
    start_s, end_s: part of the clip, with `rate_hz`.
    size: short side in pixels, area-averaged; never enlarged. None keeps the size.
    stream: container index of a video stream, None for the rule of this file.
  Raises: MediaError without a video stream, without frames, on damage of what has to be
    decoded, and if the file ends before the declared duration (by 0.1 s and two frames;
    where only the container declares one, which sound may outlast, by 1 s and 5 %).
  """
  if (times is None) == (rate_hz is None) or (rate_hz is not None and rate_hz <= 0):
    raise ValueError(f"give times or a positive rate_hz, not {times}, {rate_hz}.")
  if times is not None and (np.diff(times) < 0).any():
    raise ValueError("times must not decrease.")
  grid = lambda: _grid(times, rate_hz, start_s, end_s)
  done = 0
  try:
    for found in _shown(path, grid, size, stream, endless=times is not None):
      done += 1
      yield found
  except packets.Lost:
    rest = lambda: itertools.islice(grid(), done, None)
    every = dict(endless=times is not None, skip=False)
    yield from _shown(path, rest, size, stream, **every)


def _shown(path, grid, size, stream, *, endless, skip=True) -> Iterator:
  """(time, picture) for the times of `grid()`.

  Args:
    endless: whether the last frame is shown at all times after it.
    skip: leave out what need not be decoded.
  Raises: packets.Lost if that cannot be done with this file.
  """
  with opened(path, quick=skip) as container:
    info = describe(container, stream)
    if info.video is None:
      raise media.MediaError(f"{info.path}: no video stream.")
    v = container.streams[info.video]
    v.codec_context.thread_count = 1  # `prepare` runs one process per core
    tick = max(EPSILON_S, min(float(v.time_base), MAX_TICK_S))
    start = next(grid(), 0.0)
    if start > 0:
      ticks = int((start + info.start_s) / v.time_base)
      container.seek(ticks, stream=v, backward=True)
    needed = None
    if skip and packets.applies(container, v):
      n, d = v.time_base.numerator, v.time_base.denominator
      since = lambda pts: float(pts) * n / d - info.start_s - tick  # as `frame.time`
      needed = packets.Needed(container.demux(v), grid(), since)
    decoded = packets.decode(needed, v) if needed else container.decode(v)
    times, painter, end = grid(), _Painter(size), None
    t = next(times, None)
    for time, length, frame in _timed(decoded, v, info):
      while t is not None and end is not None and t < time - tick:
        yield t, painter.picture()
        t = next(times, None)
      if t is None:
        return
      painter.show(frame)
      end = time + length
    if end is None and (needed is None or needed.whole):
      raise media.MediaError(f"{info.path}: the video stream has no frame.")
    if needed is None or needed.whole:
      _check_end(info, end, length)
    else:
      endless = True
    while t is not None and (endless or t < end - tick):
      yield t, painter.picture()
      t = next(times, None)


def _check_end(info, end, length):
  slack = 0.1 + 2 * length if info.exact else 1.0 + 0.05 * info.duration_s
  if end < info.duration_s - slack:
    raise media.MediaError(
      f"{info.path}: cut off, {end:.2f} s of the declared {info.duration_s:.2f} s."
    )
