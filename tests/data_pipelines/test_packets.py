"""Pictures that need not be decoded are left out, and nothing else changes."""

import bisect
import fractions
import itertools
import types

import av
import numpy as np
import pytest

from data_pipelines.media import packets, video
from tests import helpers


def write(path, times, *, size=(54, 32), **options):
  """H.264 with B-frames: a bright bar wanders, frame k is shown from times[k] s."""
  with av.open(str(path), "w") as out:
    v = out.add_stream("libx264", rate=30, options={"threads": "1", **options})
    v.width, v.height, v.pix_fmt = *size, "yuv420p"
    v.time_base = v.codec_context.time_base = fractions.Fraction(1, 1000)
    for k, t in enumerate(times):
      pixels = np.full((size[1], size[0], 3), 40, np.uint8)
      pixels[:, k % size[0]] = 250, 3 * k % 256, 90
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      frame.pts, frame.time_base = round(t * 1000), fractions.Fraction(1, 1000)
      out.mux(v.encode(frame))
    out.mux(v.encode())
  return path


RNG = np.random.default_rng(0)
EVEN = np.arange(90) / 30
UNEVEN = np.cumsum(RNG.uniform(0.01, 0.08, 90))
GRIDS = (
  dict(rate_hz=10),
  dict(rate_hz=3.3, start_s=1.1, end_s=2.4),
  dict(rate_hz=1),
  dict(times=[-1.0, 0.5, 0.5, 0.534, 2.95, 9.0]),
  dict(times=np.sort(RNG.uniform(0, 3, 7))),
)


def shown(path, **grid):
  return list(video.frames(path, size=17, **grid))


@pytest.fixture
def everything(monkeypatch):
  """The same with all frames decoded, and files opened with a look into them."""

  def decode(path, **grid):
    with monkeypatch.context() as patch:
      patch.setattr(packets, "applies", lambda *_: False)
      patch.setattr(video, "_is_mp4", lambda _: False)
      return shown(path, **grid)

  return decode


def same(found, want):
  assert [t for t, _ in found] == [t for t, _ in want]
  for (_, a), (_, b) in zip(found, want, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(
  ("times", "options"),
  [
    (EVEN, {"g": "24", "bf": "3"}),
    (UNEVEN, {"bf": "6", "b_strategy": "0"}),
    (EVEN, {"x264-params": "open-gop=1:keyint=12:bframes=4:scenecut=0"}),
    (EVEN, {"x264-params": "intra-refresh=1:bframes=2:keyint=20"}),
  ],
  ids=["plain", "uneven", "open", "no keyframes"],
)
def test_the_pictures_are_those_of_decoding_everything(
  tmp_path, everything, suffix, times, options
):
  path = write(tmp_path / f"a.{suffix}", times, **options)
  for grid in GRIDS:
    same(shown(path, **grid), everything(path, **grid))


def test_real_videos_are_decoded_as_before(everything):
  grid = dict(rate_hz=4, start_s=3.9, end_s=5.1)
  for name in ("nasa_13013.mp4", "car-detection.mp4", "asl_gestures/book.mkv"):
    path = helpers.shared(f"data/video/{name}")
    same(shown(path, **grid), everything(path, **grid))


def test_pictures_are_left_out_and_the_end_is_not_read(tmp_path):
  path = write(tmp_path / "a.mp4", EVEN, g="90", bf="3", b_strategy="0")
  with video.opened(path) as container:
    v = container.streams.video[0]
    v.codec_context.thread_count = 1
    base = float(v.time_base)
    grid = iter([0.5, 1.0])
    needed = packets.Needed(container.demux(v), grid, lambda pts: pts * base - 1e-3)
    count = len(list(packets.decode(needed, v)))
  assert packets.applies(container, v)
  assert not needed.whole
  assert count < 25  # of 31 up to the last, of 90 in all


def test_a_decoder_that_breaks_its_promise(tmp_path, everything, monkeypatch):
  path = write(tmp_path / "a.mp4", EVEN)
  want, decode = everything(path, rate_hz=10), packets.decode

  def lossy(needed, v):
    yield from itertools.islice(decode(needed, v), 30)
    raise packets.Lost

  monkeypatch.setattr(packets, "decode", lossy)
  same(shown(path, rate_hz=10), want)


def packet(pts, **more):
  given = dict(size=1, is_discard=False, is_corrupt=False) | more
  return types.SimpleNamespace(pts=pts, **given)


def chosen(found, grid):
  """(numbers of packets kept, of those handed out) of `Needed`."""
  given = [*found, packet(None, size=0)]
  needed = packets.Needed(given, iter(grid), float)
  out = [(given.index(p), keep) for p, keep in needed]
  return {k for k, keep in out if keep}, [k for k, _ in out], needed


@pytest.mark.parametrize("seed", range(8))
def test_what_is_kept_is_what_is_shown(seed):
  rng = np.random.default_rng(seed)
  pts = np.cumsum(rng.integers(1, 5, 60))
  # Frames of up to 16 places further on come first.
  order = np.argsort(np.arange(60) + rng.uniform(0, 16, 60), kind="stable")
  grid = np.sort(rng.uniform(-2, pts[35], 12))
  want = {max(0, bisect.bisect_right(pts, t) - 1) for t in grid}
  kept, given, needed = chosen([packet(int(pts[k])) for k in order], grid)
  assert {int(order[k]) for k in kept} == want
  assert list(needed.shown) == [int(pts[k]) for k in sorted(want)]
  assert given == list(range(max(kept) + 1))
  assert not needed.whole


def test_odd_packets_are_kept_and_bound_nothing():
  found = [packet(10 * k) for k in range(40)]
  found[7].is_discard = found[12].is_corrupt = True
  found.insert(36, packet(45))  # far too late
  kept, _, needed = chosen(found, [75.0, 390.5])
  assert list(needed.shown) == [60]  # packet 7 shows nothing
  assert {6, 7, 12, 36} <= kept
  assert needed.whole
  found[20] = packet(None)
  with pytest.raises(packets.Lost):
    chosen(found, [390.0])


@pytest.mark.parametrize("options", [{"bf": "3"}, {"bf": "0"}])
def test_a_quick_look_tells_the_same(tmp_path, options):
  for k, times in enumerate((EVEN, UNEVEN)):
    path = write(tmp_path / f"{k}.mp4", times, **options)
    for source in (path, path.read_bytes()):
      with video.opened(source, quick=True) as container:
        quick = video.describe(container)
        assert container.streams.video[0].codec_context.pix_fmt is None  # not decoded
      with video.opened(source) as container:
        assert video.describe(container) == quick


@pytest.mark.parametrize("form", video._PLANAR)
@pytest.mark.parametrize("size", [(64, 48), (321, 181), (95, 160)])
def test_planes_hold_the_same_pixels(form, size):
  width, height = size
  noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
  frame = av.VideoFrame.from_ndarray(noise, format="rgb24").reformat(format=form)
  odd = 0
  for short in range(5, min(size)):
    painter = video._Painter(short)
    painter.show(frame)
    to = video.scaled(width, height, short)
    odd += to[0] % 2
    want = frame.reformat(*to, format="rgb24", interpolation="AREA").to_ndarray()
    np.testing.assert_array_equal(painter.picture(), want)
  assert odd > 5
