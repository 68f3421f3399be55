"""JPEG decoding and clips out of mp4, on one core: python -m launch.bench.jpeg

  photos  224 x 224 of 640 x 480: decoded whole and scaled, as the guides of tf.data do
          it, against what the pipeline does: `prepare` has stored the picture with a
          short side of 256, and the crop is cut while decoding; goal 2. A photograph
          has 140 kB, as those of COCO (118,287 in 18 GB)
  frames  16 frames of a clip, stored at 144 px: decoded whole and scaled, against the
          crop that is cut while decoding
  clips   3.2 s at 10 Hz and 128 px out of a 40 s mp4 as x264 writes it unasked, with a
          keyframe in 10 s: one ffmpeg process a clip against `media.video`, one clip an
          open (goal 2.5), three clips an open (goal 4). Or out of `--video=FILE`
  dense   the same with a keyframe a second, as the synthetic corpora have

Scaled decoding (`ratio` of decode_jpeg) is no case: it saves a tenth at these sizes.
The ffmpeg program is that of PATH or of the package imageio-ffmpeg; without one only
cases that are asked for by name need it, and clips are left out. Times are of
processor, with those of child processes, in alternating rounds.
"""

import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile

import av
import numpy as np
from absl import flags

from data_pipelines.media import image, video
from data_pipelines.synthetic import write
from launch import command
from launch.bench import timing
from vlp_jax.errors import UserError

CASES = ("photos", "frames", "clips", "dense")
SIZE, CLIP_S, RATE_HZ, SECONDS = 128, 3.2, 10, 40
BATCH = 16


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
  """[H, W, 3] uint8: patches of colour with grain, about as hard as a photograph."""
  rng = np.random.default_rng(seed)
  low = rng.integers(0, 256, (-(-height // 16), -(-width // 16), 3))
  scene = np.kron(low, np.ones((16, 16, 1), int))[:height, :width]
  return (0.85 * scene + rng.normal(20, 8, scene.shape)).clip(0, 255).astype(np.uint8)


def processor() -> float:
  """Seconds of processor time of this process and its ended children."""
  whose = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN
  used = map(resource.getrusage, whose)
  return sum(u.ru_utime + u.ru_stime for u in used)


def compare(case: str, cases: dict, items: int, rounds: int) -> None:
  """One line a case; the first is what the others are compared with."""
  spent = timing.alternate(cases, rounds, clock=processor)
  base = next(iter(spent.values()))
  for name, seconds in spent.items():
    ratio = base / seconds
    timing.emit(
      "jpeg",
      f"{case} {name}",
      per_cpu_s=items / float(np.median(seconds)),
      times_faster=float(np.median(ratio)),
      range=[round(float(x), 3) for x in (ratio.min(), ratio.max())],
    )


def photos(count: int) -> dict:
  """Cases over `count` photographs."""
  import tensorflow as tf

  whole, small = [], []
  for k in range(count):
    pixels = picture(480, 640, k)
    whole.append(image.encode_jpeg(pixels, quality=95))
    less = tf.image.resize(pixels, [256, 341], "area")
    small.append(image.encode_jpeg(tf.cast(less, tf.uint8).numpy()))

  def naive(data):
    pixels = tf.image.resize(tf.io.decode_jpeg(data, channels=3), [224, 224])
    return tf.cast(pixels, tf.uint8)

  def cropped(data):
    room = tf.io.extract_jpeg_shape(data)[:2] - 224
    window = tf.concat([room // 2, [224, 224]], 0)
    return _crop(data, window)

  def run(fn, stored):  # built once: tracing is no part of decoding
    made = tf.data.Dataset.from_tensor_slices(stored).map(fn).batch(BATCH)
    return lambda: [x.shape for x in made]

  return {"whole": run(naive, whole), "prepared": run(cropped, small)}


def _crop(data, window):
  """As the task of clips decodes."""
  import tensorflow as tf

  return tf.image.decode_and_crop_jpeg(
    data, window, channels=3, dct_method="INTEGER_ACCURATE"
  )


def frames(count: int) -> dict:
  """Cases over `count` clips of 16 frames, stored at 144 px."""
  import tensorflow as tf

  stored = [image.encode_jpeg(picture(144, 192, k)) for k in range(16)]
  window = [8, 32, SIZE, SIZE]

  def naive(clip):
    one = lambda data: tf.cast(
      tf.image.resize(tf.io.decode_jpeg(data, channels=3), [SIZE, SIZE]), tf.uint8
    )
    return tf.map_fn(one, clip, fn_output_signature=tf.uint8)

  def cropped(clip):
    one = lambda data: _crop(data, window)
    return tf.map_fn(one, clip, fn_output_signature=tf.uint8, parallel_iterations=16)

  clips = tf.data.Dataset.from_tensors(stored).repeat(count)

  def run(fn):
    made = clips.map(fn).batch(BATCH)
    return lambda: [x.shape for x in made]

  return {"whole": run(naive), "cropped": run(cropped)}


def _ffmpeg() -> str:
  if found := shutil.which("ffmpeg"):
    return found
  try:
    import imageio_ffmpeg
  except ImportError:
    raise UserError(
      "no ffmpeg to compare with; install it, or imageio-ffmpeg, or leave out "
      "--cases=clips."
    ) from None
  return imageio_ffmpeg.get_ffmpeg_exe()


def film(path: pathlib.Path, *, dense: bool) -> None:
  """Writes 40 s at 320 x 240, 25 Hz, over which a scene moves past."""
  scene = picture(240, 320 + 25 * SECONDS)
  moving = [scene[:, t : t + 320] for t in range(25 * SECONDS)]
  if dense:
    write.mp4(path, np.stack(moving), 25.0)
    return
  with av.open(str(path), "w") as out:
    v = out.add_stream("libx264", rate=25)
    v.height, v.width, v.pix_fmt = 240, 320, "yuv420p"
    for pixels in moving:
      out.mux(v.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    out.mux(v.encode())


def clips(path: pathlib.Path) -> tuple[dict, int]:
  """(cases, clips in each) over a video: neighbours, as narrations are."""
  info, program = video.probe(path), _ffmpeg()
  first = 0.3 * info.duration_s + 0.5
  starts = first, first + 2, first + 4
  if starts[-1] + CLIP_S > info.duration_s:
    raise UserError(f"--video={path}: at least 11 s are needed.")
  width, height = video.scaled(info.width, info.height, SIZE)

  def process():
    for start in starts:
      given = ["-ss", str(start), "-i", str(path), "-t", str(CLIP_S)]
      scale = ["-vf", f"fps={RATE_HZ},scale={width}:{height}"]
      raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"]
      quiet = [program, "-v", "error"]
      done = subprocess.run([*quiet, *given, *scale, *raw], capture_output=True)
      if done.returncode:
        raise UserError(f"ffmpeg failed: {done.stderr[-200:].decode()}")

  def each():
    for start in starts:
      end = start + CLIP_S
      shown = video.frames(path, rate_hz=RATE_HZ, start_s=start, end_s=end, size=SIZE)
      assert sum(1 for _ in shown) == round(RATE_HZ * CLIP_S)

  def together():
    grid = np.arange(round(RATE_HZ * CLIP_S)) / RATE_HZ
    times = np.sort(np.concatenate([start + grid for start in starts]))
    assert sum(1 for _ in video.frames(path, times=times, size=SIZE)) == len(times)

  cases = {"ffmpeg process": process, "one an open": each, "three an open": together}
  return cases, len(starts)


def main():
  given = flags.FLAGS
  timing.one_core()
  cases = given.cases
  if not given["cases"].present:  # what is asked for by name has to be there
    try:
      _ffmpeg()
    except UserError as missing:
      cases = [c for c in cases if c in ("photos", "frames")]
      print(f"without clips: {missing}", file=sys.stderr)
  for case in cases:
    if case == "photos":
      compare(case, photos(given.items), given.items, given.rounds)
    elif case == "frames":
      compare(case, frames(given.items), given.items, given.rounds)
    elif case == "clips" and given.video:
      compare(case, *clips(pathlib.Path(given.video)), given.rounds)
    else:
      with tempfile.TemporaryDirectory() as dir:
        path = pathlib.Path(dir) / "video.mp4"
        film(path, dense=case == "dense")
        compare(case, *clips(path), given.rounds)


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_multi_enum("cases", CASES, CASES, "What is measured.")
  flags.DEFINE_integer("items", 64, "Photographs, and clips of stored frames.")
  flags.DEFINE_string("video", "", "A video of your own for the case clips.")
  flags.DEFINE_integer("rounds", 5, "Alternating rounds.")
  command.main(main)
