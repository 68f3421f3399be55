"""Decoders: exact frames and samples from good files, one-line errors from bad ones."""

import fractions
import io
import resource
import struct
import zipfile
import zlib

import av
import numpy as np
import pytest
from PIL import Image

from data_pipelines import media
from data_pipelines.media import audio, image, video
from tests import helpers

LEVEL = 9  # grey levels between neighbouring frames


def write_video(path, times, *, size=(32, 24), rotation=0, sound=None, codec="mpeg4"):
  """Frame k is grey 9 k + 20, shown from times[k] s; sound: (rate, start, samples)."""
  with av.open(str(path), "w") as out:
    v = out.add_stream(codec, rate=30)
    v.width, v.height = size
    v.pix_fmt, v.time_base = "yuv420p", fractions.Fraction(1, 1000)
    v.codec_context.time_base = v.time_base
    v.codec_context.gop_size = 4
    v.codec_context.bit_rate = 4_000_000
    if rotation:
      v.set_display_rotation(rotation)
    a = None
    if sound:
      a = out.add_stream("pcm_s16le", rate=sound[0], layout="mono")
    for k, t in enumerate(times):
      pixels = np.full((size[1], size[0], 3), LEVEL * (k % 24) + 20, np.uint8)
      if rotation:
        pixels[:, : size[0] // 2] = 255  # the left half as stored
      frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
      frame.pts, frame.time_base = round(t * 1000), fractions.Fraction(1, 1000)
      out.mux(v.encode(frame))
    out.mux(v.encode())
    if sound:
      rate, start, samples = sound
      whole = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
      whole.sample_rate, whole.time_base = rate, fractions.Fraction(1, rate)
      whole.pts = round(start * rate)
      out.mux(a.encode(whole))
      out.mux(a.encode())
  return path


def levels(found):
  return [round((float(p.mean()) - 20) / LEVEL) for _, p in found]


@pytest.mark.parametrize(
  ("name", "count", "stream"),
  [
    ("bottle-detection.mp4", 1189, None),
    ("car-detection.mp4", 377, None),
    ("nasa_13013.mp4", 325, 0),
    ("nasa_13013.mp4", 390, None),
    ("asl_gestures/again.mkv", 77, None),
    ("big_buck_bunny_0_30.webm", 720, None),
  ],
)
def test_real_files_have_their_frames(name, count, stream):
  path = helpers.shared(f"data/video/{name}")
  info = video.probe(path, stream=stream)
  grid = [k / info.rate_hz for k in range(count)]
  seen, before = 0, None
  for t, pixels in video.frames(path, rate_hz=info.rate_hz, size=24, stream=stream):
    assert t == pytest.approx(grid[seen])
    assert min(pixels.shape[:2]) == 24
    seen, before = seen + 1, pixels
  assert seen == count
  assert before.dtype == np.uint8
  assert info.num_frames in (0, count)


def test_the_stream_with_the_most_pixels_is_taken():
  info = video.probe(helpers.shared("data/video/nasa_13013.mp4"))
  assert (info.video, info.width, info.height) == (3, 480, 270)
  assert (info.audio, info.audio_rate_hz) == (4, 16_000)
  assert (info.num_video, info.num_audio, info.num_subtitle) == (2, 2, 2)
  assert info.duration_s == pytest.approx(13.013)
  with pytest.raises(media.MediaError, match=r"no video stream 1; there are \[0, 3\]"):
    video.probe(helpers.shared("data/video/nasa_13013.mp4"), stream=1)


TIMES = [0.0, 0.033, 0.1, 0.5, 0.533, 0.9, 1.0, 1.05, 1.3, 1.9]


@pytest.mark.parametrize("suffix", ["mkv", "mp4"])
def test_the_frame_shown_at_each_time(tmp_path, suffix):
  path = write_video(tmp_path / f"a.{suffix}", TIMES)
  asked = [-1.0, 0.0, 0.031, 0.033, 0.2, 0.498, 0.5, 0.5, 0.95, 1.0, 1.29, 1.89, 9.0]
  want = [int(np.searchsorted(TIMES, t + 1e-9, "right")) - 1 for t in asked]
  want[0] = 0  # before the first
  got = list(video.frames(path, times=asked))
  assert levels(got) == want
  assert [t for t, _ in got] == asked


@pytest.mark.parametrize("start", [0.0, 0.4, 1.02])
def test_a_grid_may_begin_in_the_middle(tmp_path, start):
  path = write_video(tmp_path / "a.mkv", TIMES)
  got = list(video.frames(path, rate_hz=20, start_s=start, end_s=1.5))
  grid = [start + k / 20 for k in range(40) if start + k / 20 < 1.5 - 1e-6]
  assert [t for t, _ in got] == pytest.approx(grid)
  shown = [int(np.searchsorted(TIMES, t + 1e-6, "right")) - 1 for t in grid]
  assert levels(got) == shown


def test_b_frames_are_in_order_of_display(tmp_path):
  with av.open(str(tmp_path / "a.mp4"), "w") as out:
    v = out.add_stream("libx264", rate=25)
    v.width, v.height, v.pix_fmt = 32, 32, "yuv420p"
    v.options = {"bf": "3", "b_strategy": "0", "crf": "1"}
    for k in range(20):
      pixels = np.full((32, 32, 3), LEVEL * k + 20, np.uint8)
      out.mux(v.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    out.mux(v.encode())
  got = list(video.frames(tmp_path / "a.mp4", rate_hz=25))
  assert levels(got) == list(range(20))
  middle = list(video.frames(tmp_path / "a.mp4", times=[0.5, 0.52, 0.76]))
  assert levels(middle) == [12, 13, 19]


def test_one_frame_is_held(tmp_path):
  path = write_video(tmp_path / "a.mkv", [0.0])
  assert levels(video.frames(path, times=[0.0, 1.0, 2.0])) == [0, 0, 0]


@pytest.mark.parametrize(("turn", "bright"), [(90, "bottom"), (-90, "top")])
def test_rotated_video_stands_upright(tmp_path, turn, bright):
  path = write_video(tmp_path / "a.mp4", [0.0, 0.1], rotation=turn, codec="libx264")
  info = video.probe(path)
  assert (info.width, info.height, info.rotation) == (24, 32, turn)
  _, pixels = next(video.frames(path, times=[0.0]))
  assert pixels.shape == (32, 24, 3)
  half = pixels[:16] if bright == "top" else pixels[16:]  # the left half, turned
  assert half.mean() > 250
  assert pixels.mean() < 200


def test_scaled_never_enlarges():
  assert video.scaled(640, 480, 64) == (85, 64)
  assert video.scaled(480, 640, 64) == (64, 85)
  assert video.scaled(64, 48, 64) == (64, 48)
  assert video.scaled(10_000, 2, 1) == (5000, 1)
  assert video.scaled(64, 48, None) == (64, 48)


def test_cut_and_empty_files(tmp_path):
  good = write_video(tmp_path / "a.mkv", [k / 25 for k in range(100)])
  data = good.read_bytes()
  cases = {
    "half.mkv": data[: len(data) // 2],
    "head.mkv": data[:50],
    "page.mp4": b"<html>404</html>" * 40,
    "empty.mp4": b"",
  }
  for name, content in cases.items():
    (tmp_path / name).write_bytes(content)
  cases["none.mp4"] = None
  for name in cases:
    with pytest.raises(media.MediaError, match=name) as error:
      list(video.frames(tmp_path / name, rate_hz=8))
    assert "\n" not in str(error.value)


def test_a_cut_mp4_with_its_header_in_front(tmp_path):
  data = helpers.shared("data/video/car-detection.mp4").read_bytes()
  (tmp_path / "a.mp4").write_bytes(data[: len(data) // 2])
  with pytest.raises(media.MediaError):
    list(video.frames(tmp_path / "a.mp4", rate_hz=2, size=16))


def test_sound_only_and_silent_files(tmp_path):
  sound = helpers.shared("data/video/nasa_13013.mp4.audio.mp3")
  with pytest.raises(media.MediaError, match="no video stream"):
    list(video.frames(sound, rate_hz=1))
  assert video.probe(sound).video is None
  assert audio.samples(write_video(tmp_path / "a.mp4", TIMES)) is None
  pcm = audio.samples(sound, rate_hz=16_000)
  assert pcm.dtype == np.int16
  assert len(pcm) / 16_000 == pytest.approx(13.06, abs=0.1)
  assert np.abs(pcm.astype(int)).max() > 1000


def test_a_playlist_opens_no_other_file(tmp_path):
  write_video(tmp_path / "secret.mkv", TIMES)
  at = tmp_path / "secret.mkv"
  text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{at}\n#EXT-X-ENDLIST\n"
  (tmp_path / "list.mp4").write_text(text)
  (tmp_path / "join.mp4").write_text(f"ffconcat version 1.0\nfile '{at}'\n")
  for name in ("list.mp4", "join.mp4"):
    with pytest.raises(media.MediaError, match=name):
      list(video.frames(tmp_path / name, rate_hz=8))


def impulse(rate, at, length=2.0):
  x = np.zeros(round(rate * length), np.int16)
  x[round(at * rate) : round((at + 0.01) * rate)] = 20_000
  return x


@pytest.mark.parametrize("rate", [8000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("start", [0.0, 0.25])
def test_sound_is_aligned_to_the_first_frame(tmp_path, rate, start):
  path = tmp_path / "a.mkv"
  write_video(path, TIMES, sound=(rate, start, impulse(rate, 1.0)))
  pcm = audio.samples(path, rate_hz=16_000)
  centre = np.average(np.arange(len(pcm)), weights=np.abs(pcm.astype(float)))
  assert centre / 16_000 == pytest.approx(start + 1.005, abs=0.001)
  assert len(pcm) / 16_000 == pytest.approx(start + 2.0, abs=0.005)
  part = audio.samples(path, rate_hz=16_000, start_s=0.5, end_s=1.5)
  assert len(part) == 16_000
  centre = np.average(np.arange(len(part)), weights=np.abs(part.astype(float)))
  assert centre / 16_000 == pytest.approx(start + 0.505, abs=0.001)


def test_video_that_begins_late_is_time_zero(tmp_path):
  path = tmp_path / "a.mkv"
  times = [0.5 + t for t in TIMES]
  write_video(path, times, sound=(16_000, 0.0, impulse(16_000, 1.0)))
  assert levels(video.frames(path, times=[0.0, 0.05, 0.5])) == [0, 1, 3]
  pcm = audio.samples(path)
  assert np.flatnonzero(np.abs(pcm.astype(int)) > 10_000)[0] == pytest.approx(
    8000, abs=9
  )


@pytest.mark.parametrize("bomb", ["ten hours", 12_000, 50_000])
def test_video_bombs_are_refused_from_the_header(tmp_path, bomb):
  path = write_video(tmp_path / "a.mkv", [0.0, 1.0], size=(512, 512), codec="ffv1")
  data = bytearray(path.read_bytes())
  if bomb == "ten hours":  # element Duration: 8 bytes, in ms
    at = data.index(b"\x44\x89\x88") + 3
    data[at : at + 8] = struct.pack(">d", 36_000_000.0)
  else:  # elements PixelWidth and PixelHeight: 2 bytes each
    for element in (b"\xb0\x82\x02\x00", b"\xba\x82\x02\x00"):
      at = data.index(element) + 2
      data[at : at + 2] = struct.pack(">H", bomb)
  path.write_bytes(data)
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  # FFmpeg itself refuses the largest, when it opens the file.
  message = "Invalid data" if bomb == 50_000 else "declares"
  with pytest.raises(media.MediaError, match=message) as error:
    list(video.frames(path, rate_hz=1))
  assert "\n" not in str(error.value)
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def _png(width, height):
  """A PNG of zeros that declares the size; its pixels are a few kB of zlib."""

  def chunk(kind, body):
    whole = kind + body
    return struct.pack(">I", len(body)) + whole + struct.pack(">I", zlib.crc32(whole))

  head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
  rows = zlib.compress(bytes(min((width // 8 + 1) * height, 1 << 22)))
  return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9000, 12_000, 50_000])
def test_image_bombs_are_refused_from_the_header(side):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(media.MediaError, match="pixels"):
    image.decode(_png(side, side))
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def _saved(array, mode, **keywords):
  out = io.BytesIO()
  Image.fromarray(array).convert(mode).save(out, **keywords)
  return out.getvalue()


def test_images_of_all_modes():
  rgb = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
  alpha = np.concatenate([rgb, np.zeros((5, 7, 1), np.uint8)], axis=2)
  out = io.BytesIO()
  Image.fromarray(alpha).save(out, "PNG")
  # Alpha is dropped: colours of invisible pixels stay.
  np.testing.assert_array_equal(image.decode(out.getvalue()), rgb)
  np.testing.assert_array_equal(image.decode(_saved(rgb, "RGB", format="PNG")), rgb)
  grey = image.decode(_saved(rgb, "L", format="PNG"))
  assert grey.shape == (5, 7, 3)
  assert (grey == grey[..., :1]).all()
  out = io.BytesIO()
  Image.fromarray(np.full((2, 3), 0xABCD, np.uint16)).save(out, "PNG")
  assert (image.decode(out.getvalue()) == 0xAB).all()
  for mode, kind in (("P", "GIF"), ("CMYK", "JPEG"), ("1", "PNG")):
    assert image.decode(_saved(rgb, mode, format=kind)).shape == (5, 7, 3)


def test_jpeg_is_close_and_the_same_each_time():
  x = np.linspace(0, 255, 64)
  rgb = np.stack(np.broadcast_arrays(x[:, None], x[None], 128.0), -1).astype(np.uint8)
  sizes = {}
  for subsampling in (0, 2):
    data = image.encode_jpeg(rgb, quality=95, subsampling=subsampling)
    assert data == image.encode_jpeg(rgb, quality=95, subsampling=subsampling)
    assert np.abs(image.decode(data).astype(int) - rgb).max() < 12
    sizes[subsampling] = len(data)
  assert sizes[0] > sizes[2]
  with pytest.raises(ValueError, match="no"):
    image.encode_jpeg(rgb.astype(np.float32))


_NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)


@pytest.mark.parametrize(
  "data",
  [
    b"",
    b"<html>",
    _saved(_NOISE, "RGB", format="PNG")[:5000],
    _saved(_NOISE, "RGB", format="JPEG")[:2000],
  ],
  ids=["empty", "page", "png", "jpeg"],
)
def test_damaged_images_are_one_line(data):
  with pytest.raises(media.MediaError) as error:
    image.decode(data)
  assert "\n" not in str(error.value)


def test_real_images_lose_their_alpha(tmp_path):
  path = helpers.shared("data/image_text/nlvr/nlvr_dev_images.zip")
  with zipfile.ZipFile(path) as z:
    data = z.read(next(n for n in z.namelist() if n.endswith(".png")))
  (tmp_path / "a.png").write_bytes(data)
  pixels = image.decode(tmp_path / "a.png")
  assert pixels.shape == (100, 400, 3)
  whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA"))
  np.testing.assert_array_equal(pixels, whole[..., :3])
