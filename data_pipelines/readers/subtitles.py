"""Timed texts of one video: srt, vtt, YouTube json3, Whisper json, csv start,end,text.

Automatic captions roll: a cue repeats the line of the cue before and adds to it. A
line that the cue before it still shows is taken once, with the time of its first cue,
and then cues end where the next one begins. Tags and entities are removed.

Files are UTF-8, or UTF-16 with a byte order mark; other encodings are named, never
guessed. A cue that is not UTF-8, empty, untimed or ends before it begins is dropped and
counted.
"""

import html
import json
import math
import pathlib
import re
from collections.abc import Iterable

from data_pipelines.readers import narrated, tables
from data_pipelines.readers.clip_row import ClipRow, Said, seconds

KINDS = (".srt", ".vtt", ".json3", ".json", ".csv")
TOUCH_S = 0.1  # cues that follow each other so closely belong together

_TIMES = re.compile(r"([\d:.,]+)\s*-->\s*([\d:.,]+)")
_TAG = re.compile(r"<[^<>]*>|\{\\[^{}]*\}")


def read(path, *, encoding: str = "utf-8") -> tuple[list[Said], int]:
  """(timed texts in order of their start, number dropped or cut).

  Raises: ValueError for a file of another format; UserError if it cannot be read.
  """
  kind = pathlib.Path(path).suffix.lower()
  text = tables.read(path, encoding)
  if kind == ".json":
    kind = ".json3" if '"tStartMs"' in text or '"events"' in text[:4000] else kind
  if kind not in KINDS:
    raise ValueError(f"{path}: subtitles are of {', '.join(KINDS)}")
  try:
    cues = {
      ".srt": _blocks,
      ".vtt": _blocks,
      ".json3": _json3,
      ".json": _whisper,
      ".csv": _csv,
    }[kind](text)
  except (KeyError, TypeError, AttributeError, RecursionError, ValueError) as error:
    raise ValueError(
      f"{path}: no {kind} file: {type(error).__name__} {error}"
    ) from None
  return clean(cues)


def timed(row: ClipRow) -> tuple[Said, ...]:
  """The timed texts of a row and of its file of subtitles.

  A file of another format counts as none: its row goes to quarantine when it is read.
  Raises: UserError if the file cannot be read.
  """
  try:
    return (*row.said, *(read(row.subtitles)[0] if row.subtitles else ()))
  except ValueError:
    return row.said


def clean(cues: Iterable[tuple]) -> tuple[list[Said], int]:
  """(timed texts, number dropped or cut) of (text, start, end), any of them unsound.

  Times are whatever `clip_row.seconds` reads.
  """
  kept, lost = [], 0
  for text, start, end in cues:
    good, start, end = narrated.text_of(text), _time(start), _time(end)
    sound = bool(good) and start <= end
    if sound:
      kept.append(Said(good, start, end))
    lost += not sound or good != text
  return sorted(kept, key=lambda s: s.start), lost


def _time(value) -> float:
  """Seconds; NaN for what is no time."""
  try:
    return seconds(value)
  except (TypeError, ValueError):
    return math.nan


def _blocks(text: str) -> list[tuple]:
  """Cues of srt and vtt: whatever stands below a line with two times."""
  cues, lines = [], None
  for line in [*text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), ""]:
    match = _TIMES.search(line)
    if match:
      if lines and lines[-1].strip().isdigit():
        lines.pop()  # the number of this cue, where no blank line stands before it
      lines = []
      cues.append((lines, _time(match[1]), _time(match[2])))
    elif not line.strip() and lines != []:
      # The end of a cue. YouTube puts a blank first line (a space) into rolling ones.
      lines = None if not line else lines
    elif lines is not None and line.strip():
      lines.append(line)
  if not cues and text.strip().removeprefix("WEBVTT").strip():
    raise ValueError("no line with times")
  shown = []
  for lines, start, end in cues:
    plain = [" ".join(html.unescape(_TAG.sub("", x)).split()) for x in lines]
    shown.append(([x for x in plain if x], start, end))
  return unroll(shown)


def unroll(cues: list[tuple]) -> list[tuple]:
  """(text, start, end) of (lines, start, end) without what cues repeat.

  The longest beginning of a cue that ends the cue before, if they touch, is repeated.
  """
  out, before, until, rolling = [], [], -math.inf, 0
  for lines, start, end in cues:
    repeated = 0
    if start <= until + TOUCH_S:
      for n in range(min(len(lines), len(before)), 0, -1):
        if lines[:n] == before[len(before) - n :]:
          repeated = n
          break
    rolling += bool(repeated)
    new = lines[repeated:]
    if new or not lines:
      out.append([" ".join(new), start, end])
    elif out:  # only a repetition: the text stays a little longer
      out[-1][2] = max(out[-1][2], end)
    before, until = lines, end
  return cut(out) if rolling > len(cues) / 10 else [tuple(c) for c in out]


def cut(cues) -> list[tuple]:
  """Each cue ends at the latest where the next begins."""
  starts = [c[1] for c in cues[1:]] + [math.inf]
  return [
    (text, start, max(start, min(end, after)))
    for (text, start, end), after in zip(cues, starts, strict=True)
  ]


def _json3(text: str) -> list[tuple]:
  """YouTube's events in ms; those that only append a line break carry no text."""
  cues, automatic = [], False
  for event in json.loads(text)["events"]:
    segments = event.get("segs")
    if not segments:
      continue  # a window
    automatic |= "aAppend" in event or any("tOffsetMs" in s for s in segments)
    words = "".join(s.get("utf8", "") for s in segments)
    if words.strip():
      start = event["tStartMs"] / 1000
      end = start + event.get("dDurationMs", 0) / 1000
      cues.append((" ".join(words.split()), start, end))
  return cut(cues) if automatic else cues


def _whisper(text: str) -> list[tuple]:
  """Whisper's segments, whisper.cpp's transcription, or HowTo100M's three lists."""
  given = json.loads(text)
  if "transcription" in given:
    found = [
      (s["text"], s["offsets"]["from"] / 1000, s["offsets"]["to"] / 1000)
      for s in given["transcription"]
    ]
  elif "segments" in given:
    found = [(s["text"], s["start"], s["end"]) for s in given["segments"]]
  else:
    return lists(given)
  return [(t.strip() if isinstance(t, str) else t, s, e) for t, s, e in found]


def lists(given) -> list[tuple]:
  """Cues of {"start": [s], "end": [s], "text": [...]}, as HowTo100M has them."""
  return list(zip(given["text"], given["start"], given["end"], strict=True))


def _csv(text: str) -> list[tuple]:
  """One csv a video, columns start, end, text in any order (MIL-NCE)."""
  columns = ("text", "start", "end")
  rows = [row for _, row in tables.table(text, columns)]
  damaged = dict.fromkeys(columns)  # dropped and counted
  rows = [damaged if isinstance(row, Exception) else row for row in rows]
  return [tuple(row[c] for c in columns) for row in rows]
