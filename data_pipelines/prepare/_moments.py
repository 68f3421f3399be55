"""Annotated moments of videos in records of features, for `tasks/moments.py`.

context  label/task (place in info["tasks"], -1 without)
lists    moment/text, moment/number, moment/times (start, end in s by each annotator),
         moment/rated (class, 1 or 0, ...), task/steps, constraint/row (step, start,
         end)
columns  num_moments, task, num_steps
info     tasks: names in order of the alphabet; max_steps, of a task; annotators, of a
         moment at most; num_classes, background included, and classes["moment"], from
         1 on, where moments have numbers that are no steps
"""

from collections.abc import Mapping, MutableMapping, Sequence

import numpy as np

from data_pipelines.readers import clip_row

COLUMNS = ("num_moments", "task", "num_steps")


def about(rows: Sequence[clip_row.ClipRow]) -> dict:
  """Entries of dataset_info; {} unless a row has moments."""
  sound = [r for r in rows if not r.error]
  moments = [m for r in sound for m in r.moments]
  if not moments:
    return {}
  found = {
    "tasks": clip_row.names(sound, "task"),
    "max_steps": max(len(r.labels.get("steps", ())) for r in sound),
    "annotators": max(len(m.times) for m in moments),
  }
  texts = {m.number: m.text for m in moments if m.number > 0}
  if texts and not found["max_steps"]:
    names = [texts.get(k, "") for k in range(1, max(texts) + 1)]
    found |= {"num_classes": len(names) + 1, "classes": {"moment": names}}
  return found


def plain(row: clip_row.ClipRow, info: Mapping) -> dict:
  """What a record keeps of a row, as JSON."""
  task = row.labels.get("task")
  return {
    "moments": [m._asdict() for m in row.moments],
    "task": info["tasks"].index(task) if task in info["tasks"] else -1,
    "steps": list(row.labels.get("steps", ())),
    "constraint": list(row.labels.get("constraint", ())),
  }


def add(
  given: Mapping,
  start: float,
  context: MutableMapping,
  lists: MutableMapping,
  columns: MutableMapping,
) -> None:
  """Puts it into a record; `start` is that of the clip in its file, in s."""
  moments, rows = given["moments"], given["constraint"]
  context["label/task"] = given["task"]
  flat = lambda pairs, shift: [float(x) - shift for pair in pairs for x in pair]
  lists |= {
    "moment/text": [m["text"] for m in moments],
    "moment/number": [int(m["number"]) for m in moments],
    "moment/times": [flat(m["times"], start) for m in moments],
    "moment/rated": [np.array(m["rated"], np.int64).ravel() for m in moments],
    "task/steps": list(given["steps"]),
    "constraint/row": [
      [float(k), float(a) - start, float(b) - start]
      for k, a, b in zip(rows[::3], rows[1::3], rows[2::3], strict=True)
    ],
  }
  columns |= {
    "num_moments": len(moments),
    "task": given["task"],
    "num_steps": len(given["steps"]),
  }
