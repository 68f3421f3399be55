"""Real recordings in full, and awkward ones made here: cut, odd, silent, endless."""

import pathlib
import struct

import av
import numpy as np
import pytest

from data_pipelines import media
from data_pipelines.media import audio, video
from tests import helpers
from tests.reference import layout


def decoded(path) -> int:
  """Frames of the chosen stream, all of them."""
  with video.opened(path) as container:
    v = video.choose_video(container)
    v.codec_context.thread_count = 1
    return sum(1 for _ in container.decode(v))


def test_every_gesture_has_the_frames_that_its_header_tells():
  folder = pathlib.Path(helpers.shared("data/video/asl_gestures"))
  counts = {}
  for path in sorted(folder.glob("*.mkv")):
    info = video.probe(path)
    assert (info.width, info.height, info.codec) == (640, 480, "h264")
    assert info.audio is None
    assert info.rate_hz == pytest.approx(30, abs=0.1)
    counts[path.stem] = decoded(path)
  assert len(counts) == 20
  assert (min(counts.values()), max(counts.values())) == (47, 109)


@pytest.mark.parametrize(
  ("name", "frames", "sound_hz", "seconds"),
  [
    ("bottle-detection.mp4", 1189, 0, 39.9),
    ("car-detection.mp4", 377, 48_000, 30.2),
    ("nasa_13013.mp4", 390, 16_000, 13.0),
    ("big_buck_bunny_0_30.webm", 720, 44_100, 30.0),
  ],
)
def test_real_videos(name, frames, sound_hz, seconds):
  path = pathlib.Path(helpers.shared(f"data/video/{name}"))
  info = video.probe(path)
  assert info.audio_rate_hz == sound_hz
  assert info.duration_s == pytest.approx(seconds, abs=0.1)
  assert decoded(path) == frames
  pcm = audio.samples(path, rate_hz=8000)
  if sound_hz:
    assert len(pcm) / 8000 == pytest.approx(seconds, abs=0.2)
    # The same from its bytes, as a member of an archive is read.
    np.testing.assert_array_equal(audio.samples(path.read_bytes(), rate_hz=8000), pcm)
  else:
    assert pcm is None


@pytest.mark.parametrize(
  ("name", "seconds"),
  [
    ("video/nasa_13013.mp4.audio.mp3", 13.06),
    ("audio/misc/198-209-0000.ogg", 14.3),
    ("audio/misc/sorohanro_-_solo-trumpet-06.ogg", 5.33),
    ("audio/misc/glacier-bay-humpback.ogg", 64.8),
  ],
)
def test_real_sounds(name, seconds):
  path = pathlib.Path(helpers.shared(f"data/{name}"))
  pcm = audio.samples(path)
  assert len(pcm) / 16_000 == pytest.approx(seconds, rel=0.05)
  assert np.abs(pcm.astype(int)).max() > 300
  part = audio.samples(path, start_s=2.0, end_s=3.0)
  assert len(part) == 16_000
  whole = pcm[32_000:48_000].astype(float)
  assert np.corrcoef(part.astype(float), whole)[0, 1] > 0.99


def test_rotation_and_times_of_bytes():
  path = pathlib.Path(helpers.shared("data/video/asl_gestures/yes.mkv"))
  times = [0.0, 0.5, 1.0]
  from_file = list(video.frames(path, times=times, size=24))
  from_bytes = list(video.frames(path.read_bytes(), times=times, size=24))
  for (_, a), (_, b) in zip(from_file, from_bytes, strict=True):
    np.testing.assert_array_equal(a, b)
  assert video.probe(path.read_bytes()).duration_s == video.probe(path).duration_s


def test_cut_sounds_are_refused(tmp_path):
  whole = layout.wav(np.arange(8000))
  np.testing.assert_array_equal(audio.samples(whole, rate_hz=8000), np.arange(8000))
  ogg = pathlib.Path(helpers.shared("data/audio/misc/198-209-0000.ogg")).read_bytes()
  mp3 = pathlib.Path(helpers.shared("data/video/nasa_13013.mp4.audio.mp3")).read_bytes()
  cases = {"wav": whole, "ogg": ogg, "mp3": mp3}
  for kind, data in cases.items():
    path = tmp_path / f"cut.{kind}"
    path.write_bytes(data[: len(data) // 2])
    for source in (path, data[: len(data) // 2]):
      with pytest.raises(media.MediaError, match="cut off") as error:
        audio.samples(source)
      assert "\n" not in str(error.value)
    # A part that is there whole can still be had, where the header does not forbid it.
  assert len(audio.samples(tmp_path / "cut.mp3", end_s=2.0)) == 32_000


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
def test_a_wav_that_was_written_into_a_pipe(size):
  data = bytearray(layout.wav(np.arange(8000)))
  at = data.index(b"data") + 4
  data[at : at + 4] = struct.pack("<I", size)
  pcm = audio.samples(bytes(data), rate_hz=8000)
  assert len(pcm) in (0, 8000) if size == 0 else len(pcm) == 8000


def test_a_ten_hour_wav_header_and_endless_sound(monkeypatch):
  data = bytearray(layout.wav(np.zeros(800)))
  at = data.index(b"data") + 4
  data[at : at + 4] = struct.pack("<I", 10 * 3600 * 16_000)
  with pytest.raises(media.MediaError, match=r"cut off|declares"):
    audio.samples(bytes(data))
  monkeypatch.setattr(video, "MAX_SECONDS", 1.0)
  long = layout.wav(np.zeros(16_000))
  with pytest.raises(media.MediaError, match="declares 2 s"):
    audio.samples(long)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"<html>404</html>" * 50])
def test_what_is_no_sound(data):
  with pytest.raises(media.MediaError) as error:
    audio.samples(data)
  assert "\n" not in str(error.value)


def _video(path, frames, *, size, codec="ffv1", pixels="yuv444p", rate=10):
  with av.open(str(path), "w") as out:
    v = out.add_stream(codec, rate=rate)
    v.width, v.height = size
    v.pix_fmt = pixels
    for k in range(frames):
      x = np.full((size[1], size[0], 3), 20 + 9 * k, np.uint8)
      out.mux(v.encode(av.VideoFrame.from_ndarray(x, format="rgb24")))
    out.mux(v.encode())
  return path


@pytest.mark.parametrize("size", [(33, 17), (16, 47), (5, 9), (2, 2)])
def test_odd_sizes(tmp_path, size):
  path = _video(tmp_path / "a.mkv", 3, size=size)
  found = [p for _, p in video.frames(path, rate_hz=10)]
  assert [p.shape for p in found] == [(size[1], size[0], 3)] * 3
  np.testing.assert_allclose([p.mean() for p in found], [20, 29, 38], atol=1.5)
  small = next(video.frames(path, times=[0.0], size=8))[1]
  assert min(small.shape[:2]) == min(8, *size)


def test_a_video_without_frames(tmp_path):
  with av.open(str(tmp_path / "a.mkv"), "w") as out:
    v = out.add_stream("ffv1", rate=10)
    v.width, v.height, v.pix_fmt = 16, 16, "yuv420p"
    out.start_encoding()
  with pytest.raises(media.MediaError, match=r"a.mkv: \S+"):
    list(video.frames(tmp_path / "a.mkv", rate_hz=8))
  with pytest.raises(media.MediaError, match=r"a.mkv: \S+"):
    video.probe(tmp_path / "a.mkv")


def test_a_gif_is_a_video(tmp_path):
  path = _video(tmp_path / "a.gif", 5, size=(24, 16), codec="gif", pixels="gray")
  found = [p.mean() for _, p in video.frames(path, rate_hz=10)]
  np.testing.assert_allclose(found, 20 + 9 * np.arange(5), atol=2)
