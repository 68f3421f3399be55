"""YouTube-8M Segments: features a second of pictures and sound, and rated stretches.

The source is that of `readers/youtube8m.py`.

Result: SequenceExamples of kind `clip_features` with the networks rgb (1,024) and audio
(128) at 1 Hz, and `moment/...` as in `prepare/_moments.py`: `moment/rated` are pairs of
a class (0 to 999, the rated labels in order) and 1 or 0. `task: moments` with
unit="segment" streams them.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping

from data_pipelines import records
from data_pipelines.prepare import _moments, clip_features, shards
from data_pipelines.readers import youtube8m
from vlp_jax import errors

PER_SHARD = 4  # files


def prepare(
  source,
  out,
  *,
  widths: str = "1024,128",
  limit: int = 0,
  dry_run: bool = False,
  processes: int = 1,
  quiet: bool = False,
) -> dict:
  """Prepares YouTube-8M Segments.

    widths      of rgb and audio features
    limit       records of each file, 0 for all

  Returns: dataset_info, or the estimate of a dry run.
  """
  sizes = [int(w) for w in widths.split(",") if w.isdigit()]
  if len(sizes) != len(youtube8m.NETWORKS) or min(sizes) < 1:
    raise errors.UserError(f"widths={widths!r}; two numbers, of rgb and audio.")
  classes = youtube8m.labels(source)
  if not classes:
    raise errors.UserError(f"{source} has no rated segments and no list of labels.")
  found = youtube8m.files(source)
  info = {
    "name": "youtube8m",
    "kind": "clip_features",
    "licence": "CC BY 4.0 (YouTube-8M)",
    "features": [{"width": w, "rate_hz": 1.0} for w in sizes],
    "tasks": [],
    "max_steps": 0,
    "annotators": 1,
    "num_classes": len(classes),
    "classes": {"moment": [str(c) for c in classes]},
  }
  encode = functools.partial(encoded, classes=classes, widths=sizes, limit=limit)
  return shards.write(
    out,
    {s: [{"key": p.name, "path": str(p)} for p in own] for s, own in found.items()},
    encode,
    columns=(*clip_features.COLUMNS, *_moments.COLUMNS),
    settings={"dataset": "youtube8m", "widths": sizes, "limit": limit},
    info=info,
    processes=processes,
    per_shard=PER_SHARD,
    dry_run=dry_run,
    quiet=quiet,
  )


def encoded(row: Mapping, *, classes, widths, limit: int) -> Iterator:
  """(SequenceExample bytes, index columns), or `Refused`, of each record of a file.

  Raises: ValueError where the file is damaged; the records before it are kept.
  """
  for k, (context, lists) in enumerate(
    itertools.islice(youtube8m.read(row["path"]), limit or None)
  ):
    key = f"{row['key']}:{k}"
    try:
      key = context["id"][0].decode()
      yield record(key, context, lists, classes, widths)
    except (KeyError, IndexError, ValueError) as error:
      yield shards.Refused(key, f"{type(error).__name__} {error}")


def record(key, context, lists, classes, widths) -> tuple[bytes, dict]:
  """(SequenceExample bytes, index columns) of one video."""
  made, length = {"key": key, "group": key}, 0
  for k, (name, width) in enumerate(zip(youtube8m.NETWORKS, widths, strict=True)):
    x = youtube8m.features(lists, name, width).astype("<f2")
    length = max(length, len(x))
    made |= {
      f"features/{k}/data": x.tobytes(),
      f"features/{k}/num": len(x),
      f"features/{k}/width": width,
      f"features/{k}/rate_hz": 1.0,
    }
  made["duration_s"] = float(length)
  empty = ("narration/text", "narration/start", "narration/end", "caption/text")
  more = dict.fromkeys(empty, ())
  columns = {"duration_s": float(length), "num_narrations": 0, "num_captions": 0}
  rated = youtube8m.segments(context, classes)
  told = {"moments": [m._asdict() for m in rated], "task": -1}
  _moments.add(told | {"steps": [], "constraint": []}, 0.0, made, more, columns)
  return records.encode(made, more), columns
