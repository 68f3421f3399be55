"""How fast batches come, and whether a loop waits: python -m launch.bench.input

Generated records, read through the whole pipeline (order, reads by offset, decoding,
tokenising, padding, ladder or packing):

  regions  examples/s of 10 to 100 regions x 2048 float16 with a text; goal 1,000
  packed   the same in packed rows
  clips    clips/s of 16 frames 128 x 128 out of 8 s at 144 px, with sound; goal 300
  overlap  a loop whose step sleeps, with prefetch; the loader needs 0.8 of a step. By
           how much a step is longer than it slept; goal 3 %. Loader and loop take
           turns, and rounds are short, as the load of a busy machine changes
  memory   resident memory over many batches of small records; flat after warm-up

`per_cpu_s` is what one core would give: it counts the processor time of this process
only, whatever else the machine does.
"""

import os
import pathlib
import tempfile
import time
from collections.abc import Iterator

import numpy as np
from absl import flags

from data_pipelines import index, prefetch, records
from data_pipelines.media import image
from data_pipelines.vocabularies import wordpiece
from launch import command
from launch.bench import batching, timing

WORDS = ("red", "blue", "circle", "square", "moves", "left", "over", "fast")
CASES = ("regions", "packed", "clips", "overlap", "memory")
RATE_HZ, SECONDS, SIDE, SOUND_HZ = 10, 8, 144, 16_000


def vocabulary() -> wordpiece.Vocabulary:
  return wordpiece.Vocabulary((*wordpiece.SPECIALS, *WORDS), cased=False)


def _text(rng, length):
  return " ".join(WORDS[k] for k in rng.integers(0, len(WORDS), length))


def regions(dir, num: int, *, dim: int = 2048, few: bool = False) -> dict:
  """Writes `num` texts with regions and returns the input of the task.

  Args:
    few: one to four regions each, for records that cost little.
  """
  rng, found = np.random.default_rng(0), batching.sizes(num)
  with index.ShardWriter(dir, "train", 4) as writer:
    for k, (words, count) in enumerate(found.tolist()):
      count = 1 + k % 4 if few else count
      box = np.sort(rng.random((count, 7), dtype=np.float32), axis=1)
      context = {
        "key": f"{k}",
        "group": f"{k // 5}",
        "text": _text(rng, words - 2),
        "match": 1,
        "regions/num": count,
        "regions/dim": dim,
        "regions/features": rng.random((count, dim), np.float32)
        .astype("<f2")
        .tobytes(),
        "regions/boxes": box.tobytes(),
        "regions/objects": np.ones(count, "<i4").tobytes(),
        "regions/conf": np.ones(count, "<f4").tobytes(),
      }
      writer.write(k % 4, records.encode(context))
  index.write_info(dir, {"name": "bench", "kind": "regions", "splits": ["train"]})
  return {"task": "text_regions", "dir": str(dir), "split": "train"}


def clips(dir, num: int) -> dict:
  """Writes `num` clips of 8 s and returns the input of the task."""
  rng = np.random.default_rng(0)
  low = rng.integers(0, 256, (SIDE // 8, SIDE // 8, 3)).astype(np.uint8)
  scene = np.kron(low, np.ones((8, 8, 1), np.uint8))
  grain = rng.integers(0, 24, scene.shape).astype(np.uint8) // 2 + scene // 2
  stored = [
    image.encode_jpeg(np.roll(grain, 3 * t, axis=1)) for t in range(RATE_HZ * SECONDS)
  ]
  pcm = rng.integers(-3000, 3000, SOUND_HZ * SECONDS).astype("<i2").tobytes()
  with index.ShardWriter(dir, "train", 4) as writer:
    for k in range(num):
      context = {
        **{"key": f"{k}", "video/height": SIDE, "video/width": SIDE},
        **{"video/rate_hz": float(RATE_HZ), "duration_s": float(SECONDS)},
        **{"audio/pcm": pcm, "audio/rate_hz": float(SOUND_HZ)},
        **{f"label/{name}": 0 for name in ("shape", "colour", "action")},
      }
      times = [t / RATE_HZ for t in range(len(stored))]
      lists = {"video/frames": np.roll(stored, k).tolist(), "video/times": times}
      lists |= {"narration/text": [_text(rng, 6)]}
      lists |= {"narration/start": [0.0], "narration/end": [4.0]}
      writer.write(k % 4, records.encode(context, lists))
  info = {"name": "bench", "kind": "narrated_clips", "splits": ["train"]}
  index.write_info(dir, info)
  return {
    **{"task": "narrated_clips", "dir": str(dir), "split": "train", "rows": 8},
    **{"num_frames": 16, "size": 128, "fields": ("video", "audio"), "text": "none"},
  }


def real(batch) -> int:
  return int(batch["example_mask"].sum())


def rate(made: Iterator, seconds: float) -> dict:
  """Examples a second, and a second of processor time, over `seconds`."""
  for _ in range(4):
    next(made)
  begin, used, seen = time.perf_counter(), time.process_time(), 0
  while time.perf_counter() < begin + seconds:
    seen += real(next(made))
  spent = time.perf_counter() - begin
  per_cpu = seen / (time.process_time() - used)
  return {"examples_per_s": seen / spent, "per_cpu_s": per_cpu}


def overlap(made: Iterator, steps: int, *, share: float = 0.8, rounds: int = 9) -> dict:
  """Mean step over its sleep, with a loader that needs `share` of the sleep.

  Args:
    steps: in all rounds together. Each round first takes the loader's time alone, then
      runs the loop; the figures are medians over the rounds.
  """
  each = max(2, steps // rounds)
  found = {"load": [], "step_over_sleep": []}
  for _ in range(4):
    next(made)
  for _ in range(rounds):
    begin = time.perf_counter()
    for _ in range(each):
      next(made)
    load = (time.perf_counter() - begin) / each
    found["load"].append(load)
    with prefetch.Prefetch(made) as ahead:
      found["step_over_sleep"].append(_over_sleep(ahead, load / share, each))
  load, ratio = np.median(found["load"]), found["step_over_sleep"]
  return {
    "load_ms": 1e3 * load,
    "sleep_ms": 1e3 * load / share,
    "step_over_sleep": float(np.median(ratio)),
    "range": [round(float(x), 3) for x in (min(ratio), max(ratio))],
  }


def _over_sleep(ahead, step, steps):
  """Time of a loop over what it slept, which is longer than what it asked for."""
  for _ in range(4):
    next(ahead)
    time.sleep(step)
  begin, slept = time.perf_counter(), 0.0
  for _ in range(steps):
    next(ahead)
    lay = time.perf_counter()
    time.sleep(step)
    slept += time.perf_counter() - lay
  return (time.perf_counter() - begin) / slept


def resident_mb() -> float:
  """Resident memory of this process."""
  pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
  return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def memory(made: Iterator, steps: int) -> dict:
  """Resident memory after a fifth of the steps and at their end; the slope between."""
  seen = []
  for k in range(steps):
    next(made)
    if k % max(1, steps // 50) == 0:
      seen.append((k, resident_mb()))
  at, used = np.array(seen[len(seen) // 5 :]).T
  slope = np.polyfit(at, used, 1)[0] * 1000
  return {
    "steps": steps,
    "start_mb": float(used[0]),
    "end_mb": float(used[-1]),
    "mb_per_1000_steps": float(slope),
  }


def _measure(case, dir, given):
  from data_pipelines import batches

  build = lambda source, **more: batches.build(source | more, vocab=vocabulary())
  if case == "regions":
    return rate(build(regions(dir, given.records), tokens=10_240), given.seconds)
  if case == "packed":
    source = regions(dir, given.records)
    return rate(build(source, tokens=10_240, pack=256), given.seconds)
  if case == "clips":
    return rate(build(clips(dir, given.clips)), given.seconds)
  if case == "overlap":
    source = build(regions(dir, given.records), tokens=10_240)
    return overlap(source, given.overlap_steps)
  source = build(regions(dir, 2_000, dim=64, few=True), rows=8)
  return memory(source, given.memory_steps)


def main():
  given = flags.FLAGS
  for case in given.cases:
    with tempfile.TemporaryDirectory() as dir:
      facts = _measure(case, pathlib.Path(dir), given)
    timing.emit("input", case, cores=len(os.sched_getaffinity(0)), **facts)


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_multi_enum("cases", CASES, CASES, "What is measured.")
  flags.DEFINE_integer("records", 1_500, "Texts with regions, 140 kB each.")
  flags.DEFINE_integer("clips", 200, "Clips of 8 s, 0.6 MB each.")
  flags.DEFINE_float("seconds", 10.0, "How long a rate is measured.")
  flags.DEFINE_integer("overlap_steps", 108, "Steps of the loop that sleeps.")
  flags.DEFINE_integer("memory_steps", 5_000, "Batches over which memory is watched.")
  command.main(main)
