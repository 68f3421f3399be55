"""CrossTask: instructional videos with ordered steps (arXiv 1903.08225).

  tasks_primary.txt            per task: id, title, url, number of steps, steps joined
                               by commas; then a blank line (tasks_related.txt likewise)
  videos.csv, videos_val.csv   task, video, url; no header
  annotations/<task>_<video>.csv   step (from 1), start, end; no header
  crosstask_constraints/<task>_<video>.csv   the same, where a step may be, by what is
                               said

A row is a video; its annotated steps are its timed texts and its moments. Videos of
videos_val.csv are the test split. labels: task, the names of its steps, and constraint:
step (from 0), start and end of each line in turn.
"""

import pathlib
from typing import NamedTuple

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, Moment, Said, bad, seconds, tidy
from vlp_jax import errors


class Task(NamedTuple):
  """A task and the names of its steps, in order."""

  title: str
  url: str
  steps: tuple[str, ...]


def tasks(path) -> dict[str, Task]:
  """Id -> task of a tasks_*.txt file.

  Raises: UserError if the number of steps is not the one told.
  """
  found, block = {}, []
  for line in [*tables.read(path).splitlines(), ""]:
    if line.strip():
      block.append(line.strip())
      continue
    if block:
      try:
        name, title, url, count, steps = block
        steps = tidy(steps.split(","))
        if len(steps) != int(count):
          raise ValueError(f"{len(steps)} steps, {count} told")
      except ValueError as error:
        raise errors.UserError(f"{path}: task {block[0]!r}: {error}.") from None
      found[name] = Task(title, url, steps)
      block = []
  return found


def read(source) -> list[ClipRow]:
  """Rows of the videos of videos.csv whose task is known."""
  source = pathlib.Path(source)
  known = {}
  for at in sorted(source.glob("tasks_*.txt")):
    known |= tasks(at)
  if not known:
    raise errors.UserError(f"{source} has no tasks_primary.txt.")
  listed = _videos(tables.first(source, "videos.csv"))
  tested = source / "videos_val.csv"
  tested = set(_videos(tested)) if tested.is_file() else set()
  return [
    _row(source, task, video, known, "test" if (task, video) in tested else "train")
    for task, video in listed
    if task in known
  ]


def _videos(path) -> list[tuple[str, str]]:
  """(task, video) of each line; UserError for a line without both."""
  found = []
  for line, row in tables.fields(path):
    if len(row) < 2 or not (row[0].strip() and row[1].strip()):
      raise errors.UserError(f"{path}, line {line}: task and video are expected.")
    found.append((row[0].strip(), row[1].strip()))
  return found


def _row(source, task, video, known, split) -> ClipRow:
  key, steps = f"{task}_{video}", known[task].steps
  try:
    found = _spans(source / "annotations" / f"{key}.csv", len(steps))
    allowed = _spans(source / "crosstask_constraints" / f"{key}.csv", len(steps))
  except (IndexError, ValueError) as error:
    return bad(key, str(error), split)
  labels = {"task": known[task].title, "steps": list(steps)}
  if allowed:
    labels["constraint"] = [float(x) for line in allowed for x in line]
  return ClipRow(
    key=key,
    media=video,
    split=split,
    said=tuple(Said(steps[k], start, end) for k, start, end in found),
    labels=labels,
    group=video,
    moments=tuple(Moment(steps[k], ((start, end),), k) for k, start, end in found),
  )


def _spans(path, num: int) -> list[tuple[int, float, float]]:
  """(step from 0, start, end) of each line; none without the file.

  Raises: IndexError or ValueError for a line that is none.
  """
  found = []
  for _, row in tables.fields(path) if path.is_file() else ():
    try:
      step, start, end = int(row[0]), seconds(row[1]), seconds(row[2])
      if not 1 <= step <= num or end < start:
        raise ValueError(f"step {step} of {num} from {start} to {end} s")
    except (IndexError, ValueError) as error:
      raise ValueError(f"{path.name}: {error}") from None
    found.append((step - 1, start, end))
  return found
