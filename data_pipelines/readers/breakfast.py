"""Breakfast: people who cook, in steps; what follows is to be told from what came.

  <folder>/P03_cam01_P03_cereals.txt   a line a step: "31-150 take_bowl", its first and
                                       last frame from 1 on; SIL is no action

`read` gives for each step the video before it, with the label of the step: the
anticipation that CBT (arXiv 1906.05743, 4.2) is judged by. `actions` gives the steps
themselves. 52 people, P03 to P54: `split_number` says which quarter is for testing. The
layout, the frame rate and the splits are as we remember them. Files lie as in the
release, P03/cam01/P03_cereals.avi, or under the name of the labels.
"""

import pathlib
import re

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad
from vlp_jax import errors

FPS, BACKGROUND = 15.0, "SIL"
_NAME = re.compile(r"(P(\d+))_(\w+?)_(P\d+_\w+)")
_LINE = re.compile(r"(\d+)-(\d+)\s+(\S+)")
_TESTED = {1: range(3, 16), 2: range(16, 29), 3: range(29, 42), 4: range(42, 55)}


def read(
  source,
  *,
  split_number: int = 1,
  observe_s: float = 72.0,
  gap_s: float = 0.0,
  least_s: float = 1.5,
  fps: float = FPS,
) -> list[ClipRow]:
  """A row a step: the `observe_s` s that end `gap_s` s before it, and its label.

  Args:
    least_s: steps that begin so early that less would be seen are left out.
    fps: frames a second of the numbers in the files.
  """
  if min(observe_s, least_s) <= 0 or gap_s < 0:
    raise errors.UserError(
      f"observe_s={observe_s}, gap_s={gap_s}, least_s={least_s}: give seconds to see "
      "above 0, and a gap of at least 0."
    )
  rows = []
  for row in actions(source, split_number=split_number, fps=fps):
    end = row.start - gap_s
    start = max(end - observe_s, 0.0)
    if row.error:
      rows.append(row)
    elif end - start >= least_s:
      rows.append(row._replace(start=start, end=end))
  return rows


def actions(source, *, split_number: int = 1, fps: float = FPS) -> list[ClipRow]:
  """A row a step but background: its own time and label."""
  if split_number not in _TESTED:
    raise errors.UserError(f"split_number={split_number}; there are 1, 2, 3 and 4.")
  if fps <= 0:
    raise errors.UserError(f"fps={fps}; give frames a second.")
  files = sorted(pathlib.Path(source).rglob("P*_*.txt"))
  if not files:
    raise errors.UserError(f"{source} has no P<person>_<camera>_<video>.txt.")
  return [row for at in files for row in _video(at, split_number, fps)]


def _video(at, split_number, fps) -> list[ClipRow]:
  found = _NAME.fullmatch(at.stem)
  if found is None:
    return [bad(at.stem, "its name is not P<person>_<camera>_<video>")]
  person, number, camera, name = found.groups()
  split = "test" if int(number) in _TESTED[split_number] else "train"
  media = f"{person}/{camera}/{name}"
  also = [at.stem]
  if camera.startswith("stereo"):
    also.append(f"{person}/stereo/{name}_ch0")
  rows = []
  for line, text in enumerate(tables.read(at).splitlines(), 1):
    step = _LINE.fullmatch(text.strip())
    if not text.strip():
      continue
    if step is None or int(step[2]) < int(step[1]):
      rows.append(bad(f"{at.stem}:{line}", f"{text!r} is no FIRST-LAST LABEL", split))
    elif step[3] != BACKGROUND:
      row = ClipRow(
        key=f"{at.stem}_{int(step[1]):06d}",
        media=media,
        also=tuple(also),
        split=split,
        start=(int(step[1]) - 1) / fps,
        end=int(step[2]) / fps,
        labels={"action": step[3]},
        group=person,
      )
      rows.append(row)
  return rows
