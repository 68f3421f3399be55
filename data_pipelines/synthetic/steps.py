"""Stand-ins for CrossTask and COIN: features in which the words of steps can be read.

A video goes through the steps of its task in order, 2 or 3 s each, with background
before, between and behind. At a second of a step its feature is the sum of the vectors
of the words of the step's name, everywhere there is noise. What is said (`allowed`)
holds a step's time and up to 6 s before and behind. Tasks share words.
"""

import pathlib
import tempfile
from typing import NamedTuple

import numpy as np

from data_pipelines.prepare import clip_features
from data_pipelines.readers import clip_row, feature_files

TASKS = {
  "make tea": ("boil water", "pour water", "add tea"),
  "make soup": ("cut onion", "boil water", "add onion", "stir soup"),
  "paint a shelf": ("cut wood", "stir paint", "paint wood"),
}
WORDS = tuple(sorted({w for steps in TASKS.values() for s in steps for w in s.split()}))
DIM, NOISE = 24, 1.5
SLACK_S = 6.0  # what is said may be so much early or late
STEPS = tuple(sorted({s for steps in TASKS.values() for s in steps}))  # COIN's classes
SPLITS = {"train": 8, "test": 3}  # videos of each task


class Video(NamedTuple):
  """features [T, DIM], one a second; (step, start, end) in s, annotated and allowed."""

  features: np.ndarray
  moments: tuple[tuple[int, float, float], ...]
  allowed: tuple[tuple[int, float, float], ...]


def video(task: str, rng: np.random.Generator) -> Video:
  """A random video of a task."""
  vectors = np.random.default_rng(0).normal(size=(len(WORDS), DIM))
  at, moments, allowed = int(rng.integers(1, 6)), [], []
  for k in range(len(TASKS[task])):
    end = at + int(rng.integers(2, 4))
    moments.append((k, float(at), float(end)))
    early, late = rng.uniform(0, SLACK_S, size=2)
    allowed.append((k, max(at - early, 0.0), end + late))
    at = end + int(rng.integers(1, 6))
  x = NOISE * rng.normal(size=(at, DIM))
  for k, start, end in moments:
    words = [WORDS.index(w) for w in TASKS[task][k].split()]
    x[int(start) : int(end)] += vectors[words].sum(axis=0)
  return Video(x.astype(np.float32), tuple(moments), tuple(allowed))


def _row(task, name, split, made, classes):
  """A row as of CrossTask; or of COIN, whose steps are classes of the whole file."""
  steps, labels = TASKS[task], {"task": task}
  spans = [(steps[k], start, end) for k, start, end in made.moments]
  if not classes:
    labels["steps"] = list(steps)
    labels["constraint"] = [float(x) for line in made.allowed for x in line]
  number = lambda k, text: STEPS.index(text) + 1 if classes else k
  return clip_row.ClipRow(
    key=name,
    media=name,
    split=split,
    said=tuple(clip_row.Said(*span) for span in spans),
    labels=labels,
    group=name,
    moments=tuple(
      clip_row.Moment(text, ((start, end),), number(k, text))
      for k, (text, start, end) in enumerate(spans)
    ),
  )


def coin(out: pathlib.Path) -> None:
  """The videos of `steps`, whose steps are classes that tasks share."""
  steps(out, classes=True)


def steps(out: pathlib.Path, classes: bool = False) -> None:
  """24 videos of three tasks for training, 9 held out, with the words of all steps."""
  rng, rows = np.random.default_rng(1), []
  with tempfile.TemporaryDirectory() as at:
    for split, num in SPLITS.items():
      for number, task in enumerate(list(TASKS) * num):
        made, name = video(task, rng), f"{split}{number}"
        np.save(pathlib.Path(at) / f"{name}.npy", made.features)
        rows.append(_row(task, name, split, made, classes))
    folders, settings = [feature_files.Folder(at, 1.0)], dict(dataset="steps")
    clip_features.write(rows, folders, out, name="steps", settings=settings, quiet=True)
