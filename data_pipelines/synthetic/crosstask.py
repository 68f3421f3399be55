"""Long generated videos in the files of CrossTask: a few steps, the rest background.

Each video is a task of its own: of what happens in it, `keep` things are its steps, in
their order, named in words; what else happens is no step. Evenly spaced guesses are
then often wrong, as in CrossTask, where steps fill a quarter of a video. The files are
those of `readers/crosstask.py`; all videos are of its test split.
"""

import os
import pathlib

import numpy as np

from data_pipelines.synthetic import words, world
from vlp_jax import jsonl

NAME = "the {thing} {does}"


def write(
  clips: str | os.PathLike, out: str | os.PathLike, *, keep: int = 2, seed: int = 0
) -> int:
  """Writes the annotations of the long test videos of a corpus.

  Args:
    clips: directory of `corpus.generate`; out: of the files.
    keep: steps of a task; a video with fewer is left out.
    seed: of the choice, and of the wording of names.
  Returns: number of videos.
  """
  out, tasks, listed = pathlib.Path(out), [], []
  (out / "annotations").mkdir(parents=True, exist_ok=True)
  for number, row in enumerate(jsonl.read(pathlib.Path(clips) / "test_long.jsonl")):
    steps, rng = row["steps"], np.random.default_rng((seed, number))
    if len(steps) < keep:
      continue
    chosen = [steps[k] for k in np.sort(rng.permutation(len(steps))[:keep])]
    names, lines = [], []
    for place, step in enumerate(chosen, 1):
      combo = world.Combo(step["shape"], step["colour"], step["action"])
      names.append(words.fill(NAME, combo, rng))
      lines.append(f"{place},{step['start']:.2f},{step['end']:.2f}\n")
    video, task = row["clip_id"], f"{10_000 + number}"
    tasks.append(f"{task}\n{video}\nnone\n{keep}\n{','.join(names)}\n\n")
    listed.append(f"{task},{video},none\n")
    (out / "annotations" / f"{task}_{video}.csv").write_text("".join(lines))
  (out / "tasks_primary.txt").write_text("".join(tasks))
  for name in ("videos.csv", "videos_val.csv"):
    (out / name).write_text("".join(listed))
  return len(listed)
