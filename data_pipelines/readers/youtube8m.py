"""YouTube-8M Segments: rated stretches of 5 s, frame features (YouTube-8M, 2019).

  train*.tfrecord, validate*.tfrecord, test*.tfrecord   SequenceExamples
      context  id; segment_start_times, segment_end_times (s), segment_labels,
               segment_scores (1 or 0), one of each a rating
      lists    rgb (1,024 uint8 a second), audio (128 uint8 a second), quantised
  segment_label_ids.csv   Index: the 1,000 rated labels; else those of the files

A value u of 0..255 stands for u * 4 / 255 + 4 / 512 - 2.
"""

import pathlib
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines import records
from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import Moment
from vlp_jax import errors

NETWORKS = ("rgb", "audio")
LOW, HIGH = -2.0, 2.0
_TIMES = ("segment_start_times", "segment_end_times")
_RATED = ("segment_labels", "segment_scores")


def files(source) -> dict[str, list[pathlib.Path]]:
  """Split -> its files. Raises: UserError if there is none."""
  source, found = pathlib.Path(source), {}
  for at in sorted(source.glob("*.tfrecord")):
    found.setdefault(tables.split_of(at), []).append(at)
  if not found:
    raise errors.UserError(f"{source} has no *.tfrecord files.")
  return found


def read(path) -> Iterator[tuple[dict, dict]]:
  """(context, lists) of each record of a file.

  Raises: ValueError at a damaged record: what follows it in the file is lost.
  """
  with open(path, "rb") as f:
    for _, payload in records.read(f):
      try:
        yield records.decode(payload)
      except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise ValueError(f"no SequenceExample: {error}") from None


def labels(source) -> list[int]:
  """The rated labels in order, by the list beside the files or by the files.

  Raises: UserError for a list that is damaged.
  """
  at = pathlib.Path(source) / "segment_label_ids.csv"
  if at.is_file():
    try:
      return sorted(int(row["Index"]) for row in tables.sound(at, ("Index",)))
    except ValueError as error:
      raise errors.UserError(f"{at}: an Index is no number: {error}.") from None
  found = set()
  for path in (p for own in files(source).values() for p in own):
    try:
      for context, _ in read(path):
        found |= set(np.asarray(context.get("segment_labels", ()), int).tolist())
    except ValueError:
      continue  # `prepare` reports it
  return sorted(found)


def segments(context, classes: Sequence[int]) -> tuple[Moment, ...]:
  """The rated stretches of a record; classes are places in `classes`.

  Raises: ValueError for ratings that do not fit each other.
  """
  start, end, label, score = (
    np.asarray(context.get(name, ())) for name in (*_TIMES, *_RATED)
  )
  if not len(start) == len(end) == len(label) == len(score):
    raise ValueError(f"{len(start)} segments with {len(label)} labels")
  place, found = {c: k for k, c in enumerate(classes)}, {}
  for a, b, c, s in zip(start, end, label, score, strict=True):
    if not 0 <= a < b or int(c) not in place:
      raise ValueError(f"a segment from {a} to {b} s of class {c}")
    found.setdefault((float(a), float(b)), []).append((place[int(c)], int(s > 0.5)))
  return tuple(Moment("", (span,), rated=tuple(r)) for span, r in found.items())


def features(lists, name: str, width: int) -> np.ndarray:
  """[n, width] float32 of a network, dequantised.

  Raises: ValueError for rows of another width.
  """
  rows = [step[0] for step in lists.get(name, ())]
  if not rows or {len(r) for r in rows} != {width}:
    raise ValueError(f"{name}: no rows, or not of {width} bytes")
  x = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, width).astype(np.float32)
  return x * np.float32((HIGH - LOW) / 255) + np.float32((HIGH - LOW) / 512 + LOW)
