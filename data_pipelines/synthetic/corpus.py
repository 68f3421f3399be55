"""All files of the generated corpus, by several processes, resumable.

    DIR/corpus.json                     version, seed, settings, lists, held-out parts
    DIR/<split>.jsonl                   one row a clip: train, val, test, and of the
                                        longer videos train_long, test_long
    DIR/videos/<split>/<clip_id>.mp4    H.264 and AAC, and beside it its row as .json

A clip's row is written after its video and both appear under their names only when
whole, so a clip with a row is finished: a second run makes what is missing.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Mapping

from data_pipelines.synthetic import clips, speech, world, write

VERSION = 1
LICENCE = "generated; CC0-1.0, no rights reserved"


def numbers(
  num_clips: int,
  *,
  num_val: int | None = None,
  num_test: int = 300,
  num_long: int | None = None,
) -> dict[str, int]:
  """Clips of each file of `world.FILES`, with the defaults filled in."""
  long = num_clips // 20 if num_long is None else num_long
  val = num_clips // 6 if num_val is None else num_val
  return dict(train=num_clips, val=val, test=num_test, train_long=long, test_long=long)


def check(num: Mapping[str, int], settings: clips.Settings) -> None:
  """Raises ValueError for numbers nobody can want."""
  for name, value in num.items():
    if value < 0:
      raise ValueError(f"{value} clips for {name}; expected 0 or more.")
  if not 16 <= settings.size <= 512:
    raise ValueError(f"size is {settings.size} px; expected 16 to 512.")
  if not 1.0 <= settings.seconds <= 60.0:
    raise ValueError(f"seconds is {settings.seconds}; expected 1 to 60.")
  if settings.seconds * settings.size**2 > 8 * 512**2:  # a clip is drawn in memory
    most = 8 * 512**2 / settings.size**2
    raise ValueError(
      f"seconds is {settings.seconds}; expected at most {most:.0f} at this size."
    )
  if not 0.0 <= settings.misalignment_s <= 60.0:
    raise ValueError(f"misalignment_s is {settings.misalignment_s}; expected 0 to 60.")
  if settings.seed < 0:
    raise ValueError(f"seed is {settings.seed}; expected 0 or more.")


def estimate_bytes(num: Mapping[str, int], settings: clips.Settings) -> int:
  """About how many bytes the corpus takes; a long video counts as 3.5 clips."""
  seconds = settings.seconds * sum(
    count * (1 if file in world.SPLITS else 3.5) for file, count in num.items()
  )
  return round(seconds * (6_000 * settings.audio + 8_000 * (settings.size / 64) ** 2))


def _put(path: pathlib.Path, text: str) -> None:
  half = path.with_name(f"{path.name}.tmp-{os.getpid()}")
  half.write_text(text, encoding="utf-8")
  os.replace(half, path)


def _dump(row: Mapping) -> str:
  return json.dumps(row, ensure_ascii=False, separators=(",", ":"))


def _make(
  task: tuple[str, int, world.Combo | None],
  out: pathlib.Path,
  settings: clips.Settings,
) -> None:
  """Writes the video and the row of one clip."""
  file, index, combo = task
  if combo is None:
    pool = world.combos(settings.seed)[file.removesuffix("_long")]
    example = clips.long(file, index, pool, settings)
  else:
    example = clips.clip(file, index, combo, settings)
  path = out / example.row["video"]
  rate = example.row["rate_hz"]
  write.mp4(
    path, example.frames, rate, pcm=example.pcm, audio_rate_hz=settings.audio_rate_hz
  )
  _put(path.with_suffix(".json"), _dump(example.row))


def _row_path(out: pathlib.Path, file: str, index: int) -> pathlib.Path:
  return out / "videos" / file / f"{file}_{index:06d}.json"


def missing(
  out: pathlib.Path, num: Mapping[str, int], seed: int
) -> list[tuple[str, int, world.Combo | None]]:
  """Clips still to be made: (file, index, subject; None for a long video)."""
  out = pathlib.Path(out)
  tasks = []
  for file, count in num.items():
    short = file in world.SPLITS
    subjects = world.plan(file, seed, count) if short else [None] * count
    have = {p.name for p in (out / "videos" / file).glob("*.json")}
    tasks += [
      (file, index, subject)
      for index, subject in enumerate(subjects)
      if _row_path(out, file, index).name not in have
    ]
  return tasks


def _head(num: Mapping[str, int], settings: clips.Settings) -> dict:
  held = world.combos(settings.seed)
  return {
    "version": VERSION,
    "num_clips": num["train"],
    **dataclasses.asdict(settings),
    "shapes": list(world.SHAPES),
    "colours": list(world.COLOURS),
    "actions": list(world.ACTIONS),
    "splits": dict(num),
    "held_out": {split: [list(c) for c in held[split]] for split in ("val", "test")},
    "licence": LICENCE,
  }


def _same_corpus(out: pathlib.Path, head: Mapping) -> None:
  """Raises ValueError if `out` holds clips of other settings."""
  path = out / "corpus.json"
  if not path.exists():
    if (out / "videos").exists():
      raise ValueError(f"{out} holds videos but no corpus.json; give an empty folder.")
    return
  try:
    old = json.loads(path.read_text(encoding="utf-8"))
  except json.JSONDecodeError as e:
    raise ValueError(f"{path} is damaged ({e}); give an empty folder.") from e
  fields = {f.name: f.default for f in dataclasses.fields(clips.Settings)}
  for key in ("version", *fields):
    if old.get(key, fields.get(key)) != head[key]:
      raise ValueError(
        f"{out} holds clips with {key} {old.get(key)!r}, not {head[key]!r}; "
        "give another folder or the same settings."
      )


def _advance(make, tasks, processes, progress):
  """Runs `make` on all tasks in `processes` processes, with a bar if wanted."""
  with contextlib.ExitStack() as stack:
    if processes == 1:
      done = map(make, tasks)
    else:
      # Spawned: a fork of a process with threads (jax, a notebook) may hang.
      pool = concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=multiprocessing.get_context("spawn")
      )
      stack.enter_context(pool)
      stack.callback(pool.shutdown, wait=True, cancel_futures=True)
      futures = [pool.submit(make, task) for task in tasks]
      done = (f.result() for f in concurrent.futures.as_completed(futures))
    if progress:
      done = stack.enter_context(_bar(done, len(tasks)))
    for _ in done:
      pass


@contextlib.contextmanager
def _bar(done, total):
  """`done` with a bar on the standard error output: clips, share, time left."""
  from rich import console, progress  # the bar alone needs it

  columns = (
    progress.TextColumn("clips"),
    progress.BarColumn(),
    progress.MofNCompleteColumn(),
    progress.TimeElapsedColumn(),
    progress.TextColumn("left"),
    progress.TimeRemainingColumn(),
  )
  with progress.Progress(*columns, console=console.Console(stderr=True)) as bar:
    yield bar.track(done, total=total)


def generate(
  out: str | os.PathLike,
  *,
  num_clips: int,
  num_val: int | None = None,
  num_test: int = 300,
  num_long: int | None = None,
  seconds: float = 4.0,
  size: int = 64,
  seed: int = 0,
  vary: bool = True,
  audio: bool = True,
  misalignment_s: float = speech.MISALIGNMENT_S,
  processes: int | None = None,
  progress: bool = False,
) -> dict:
  """Makes the corpus in `out`, or what is still missing of it. One run at a time.

  Args:
    num_clips, num_val, num_test: clips of each split; `num_val` defaults to a sixth of
      `num_clips`. A larger number continues a corpus, its clips stay as they are.
    num_long: longer videos of training and of test, each; default a twentieth.
    seconds, size, vary, audio, misalignment_s: see `clips.Settings`.
    processes: default one for each core. The files do not depend on it. With more than
      one, a script that calls this needs `if __name__ == "__main__":`.
    progress: whether to show a bar.
  Returns: the content of corpus.json, with `made`, the number of clips made just now.
  Raises: ValueError for bad numbers, or if `out` holds clips of other settings.
  """
  out = pathlib.Path(out)
  settings = clips.Settings(
    seed=seed,
    seconds=float(seconds),
    size=size,
    vary=vary,
    audio=audio,
    misalignment_s=float(misalignment_s),
  )
  num = numbers(num_clips, num_val=num_val, num_test=num_test, num_long=num_long)
  check(num, settings)
  if processes is not None and processes < 1:
    raise ValueError(f"processes is {processes}; expected 1 or more.")
  processes = processes or os.cpu_count() or 1
  head = _head(num, settings)
  _same_corpus(out, head)
  for file in num:
    (out / "videos" / file).mkdir(parents=True, exist_ok=True)
  _put(out / "corpus.json", json.dumps(head, indent=1) + "\n")
  tasks = missing(out, num, seed)
  make = functools.partial(_make, out=out, settings=settings)
  _advance(make, tasks, min(processes, max(len(tasks), 1)), progress)
  for half in (out / "videos").rglob("*.tmp-*"):  # of a run that was killed
    half.unlink(missing_ok=True)
  for file, count in num.items():
    rows = (_row_path(out, file, k).read_text(encoding="utf-8") for k in range(count))
    _put(out / f"{file}.jsonl", "".join(f"{row}\n" for row in rows))
  return head | {"made": len(tasks)}
