"""The common row of all readers of clips and sounds: what it is, where it lies.

A reader is a function `read(source, ...) -> list[ClipRow]` that reads annotation files
and no media. Times are seconds from the start of the media file. A line that is no row
becomes one with an `error`, for the quarantine of `prepare`; a file that is not of the
format is a UserError.
"""

import math
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.readers import narrated

NO_LABELS = types.MappingProxyType({})


class Said(NamedTuple):
  """A text with its time in s: a narration, a subtitle, a step, a described moment."""

  text: str
  start: float
  end: float


class Moment(NamedTuple):
  """What is annotated in a video: a described moment, a step, a class.

  `times` are (start, end) in s by each annotator. `number` is that of its step among
  those of its task, from 0, or of its class; -1 without one. `rated` are pairs of a
  class and 1 or 0, where classes were asked for one by one.
  """

  text: str
  times: tuple[tuple[float, float], ...]
  number: int = -1
  rated: tuple[tuple[int, int], ...] = ()


class Choice(NamedTuple):
  """A question with the options of its answer; `answer` is the place of the right one,
  -1 if it is not told."""

  question: str
  options: tuple[str, ...]
  answer: int


class ClipRow(NamedTuple):
  """A clip or sound.

  Attributes:
    key: unique within the split.
    media: file below the directory of media, with or without its ending; a name
      without directory is also found deeper, by its stem.
    also: other names under which the file may lie there.
    member: of an archive or table (`readers/contents.py`), "" for a file of its own.
    start, end: the part that is the clip; end None is the end of the file.
    captions: of the whole clip.
    said: timed texts; those that overlap the clip belong to it.
    subtitles: a file of timed texts (`readers/subtitles.py`), read with the media.
    choices: multiple-choice questions.
    labels: name -> class name, or a sequence of numbers or names (many labels).
    group: rows of one recording, video or speaker, which no split may part.
    error: why this is no row.
    moments: annotations with their times, of whole videos.
  """

  key: str
  media: str
  split: str = "train"
  also: tuple[str, ...] = ()
  member: str = ""
  start: float = 0.0
  end: float | None = None
  captions: tuple[str, ...] = ()
  said: tuple[Said, ...] = ()
  subtitles: str = ""
  choices: tuple[Choice, ...] = ()
  labels: Mapping[str, Any] = NO_LABELS
  group: str = ""
  error: str = ""
  moments: tuple[Moment, ...] = ()


def bad(key: str, reason, split: str = "train") -> ClipRow:
  """The row of a line that is none."""
  reason = (
    f"{type(reason).__name__} {reason}" if isinstance(reason, Exception) else reason
  )
  return ClipRow(key=key, media="", split=split, error=f"no row: {reason}")


def by_split(rows: Iterable[ClipRow]) -> dict[str, list[ClipRow]]:
  """Split -> rows, in order; a repeated key becomes an error row."""
  splits, seen = {}, set()
  for k, row in enumerate(rows):
    if (row.split, row.key) in seen:
      row = bad(f"{row.key} (row {k})", "the key is repeated", row.split)
    seen.add((row.split, row.key))
    splits.setdefault(row.split, []).append(row)
  return splits


def checked(row: ClipRow, number: int) -> ClipRow:
  """The row, or an error row where a name or a text is empty or of another type.

  Captions of another type stay: `narrated.captions` drops and counts them.

  Args:
    number: of the row, which tells one without a name.
  """
  if row.error:
    return row
  named = {"key": row.key, "media": row.media, "split": row.split}
  wrong = [k for k, v in named.items() if not isinstance(v, str) or not v.strip()]
  texts = [t for q, options, _ in row.choices for t in (q, *options)]
  texts += [m.text for m in row.moments]
  wrong += [f"text {t!r:.40}" for t in texts if not isinstance(t, str)]
  if not wrong:
    return row
  split = "train" if "split" in wrong else row.split
  return bad(f"row {number}", f"no {', '.join(wrong[:3])}", split)


def names(rows: Sequence[ClipRow], label: str) -> list[str]:
  """The classes of a label in order of the alphabet."""
  return sorted({r.labels[label] for r in rows if label in r.labels})


def stretch(first, last) -> tuple[float, float]:
  """(start, end) in s of a moment of TVR, which may be of one instant."""
  start, end = seconds(first), seconds(last)
  return start, end if end > start else math.nextafter(start, math.inf)


def seconds(value) -> float:
  """Seconds of a number, "12.5", "[HH:]MM:SS(.|,)mmm" or LSMDC's "HH.MM.SS.mmm".

  Numbers may be numpy's.
  Raises: ValueError or TypeError for anything else, negative or not finite.
  """
  if isinstance(value, bool | np.bool_ | np.ndarray):
    raise ValueError(f"{value} is no time")
  if isinstance(value, str):
    text = value.strip().replace(",", ".")
    if text.count(".") == 3 and ":" not in text:
      text = text.replace(".", ":", 2)
    parts = [float(p) for p in text.split(":")]
    if len(parts) > 3:
      raise ValueError(f"{value!r} is no time")
    value = sum(p * 60**k for k, p in enumerate(reversed(parts)))
  try:
    value = float(value)
  except OverflowError:
    raise ValueError("a time of over 300 digits") from None
  if not 0 <= value < math.inf:
    raise ValueError(f"time {value}")
  return value


def span(start, end) -> tuple[float, float]:
  """(start, end) in s; ValueError unless start < end."""
  start, end = seconds(start), seconds(end)
  if not start < end:
    raise ValueError(f"a clip from {start} to {end} s")
  return start, end


def overlapping(said: Sequence[Said], start: float, end: float) -> list[Said]:
  """The timed texts of a clip, with times from its start."""
  return [
    Said(s.text, s.start - start, s.end - start)
    for s in said
    if s.start < end and s.end > start
  ]


def tidy(texts: Iterable) -> tuple[str, ...]:
  """Texts without blank ends and doubled blanks; none is dropped here."""
  return tuple(" ".join(t.split()) if narrated.text_of(t) else t for t in texts)
