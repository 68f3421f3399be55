"""Any table of files with texts: csv, tsv or JSON lines with a header.

Known names of columns, the first that is there:

  file      video, path, file, filename, clip_name, video_id, gif_name, image, audio,
            key
  text      caption, captions, text, sentence, description
  other     key, start, end, label, split, group

Covers ClipBERT's {clip_name, caption} lines, the (caption, path) lists of All-in-one
and OA-Transformer, MSVD and most users' own lists. `captions` may be a list in JSON.
Rows of one file and the same times are joined, so that each keeps all its captions. A
start without an end is a clip to the end of its file.
"""

import pathlib

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad, seconds, span, tidy
from vlp_jax import errors

FILE = ("video", "path", "file", "filename", "clip_name", "video_id", "gif_name")
FILE += ("image", "audio", "key")
TEXT = ("caption", "captions", "text", "sentence", "description")


def read(source, *, file: str = "", text: str = "", split: str = "") -> list[ClipRow]:
  """Rows of a table.

  Args:
    file, text: columns, if not by the names above.
    split: else of a column `split`, else of the file's name.
  """
  at = tables.first(source, "*.csv", "*.tsv", "*.jsonl")
  default, rows = split or tables.split_of(at), {}
  for line, given in _lines(at):
    place = f"{at.name}:{line}"
    if isinstance(given, Exception) or not isinstance(given, dict):
      reason = given if isinstance(given, Exception) else "no JSON object"
      rows[place] = bad(place, reason, default)
      continue
    try:
      row = _row(given, file, text, default)
    except tables.WRONG as error:
      rows[place] = bad(place, error, default)
      continue
    if row.key in rows:
      before = rows[row.key]
      row = before._replace(captions=before.captions + row.captions)
    rows[row.key] = row
  return list(rows.values())


def _lines(at):
  if at.suffix == ".jsonl":
    return tables.lines(at)
  delimiter = "\t" if at.suffix == ".tsv" else ","
  return tables.rows(at, (), delimiter=delimiter)


def _pick(given, known, name, what):
  if name and name not in given:
    raise errors.UserError(f"no column {name!r}; there are {', '.join(given)}.")
  found = name or next((k for k in known if given.get(k)), "")
  if not found:
    raise ValueError(f"no {what}: none of {', '.join(known)}")
  return given[found]


def _row(given, file, text, split) -> ClipRow:
  media = str(_pick(given, FILE, file, "file") or "")
  if not media:
    raise ValueError(f"an empty field: {file}")
  # An empty text is kept: `prepare` drops and counts it.
  texts = [""] if any(k in given for k in TEXT) else []
  if text or any(given.get(k) for k in TEXT):
    texts = _pick(given, TEXT, text, "text")
  texts = [texts] if isinstance(texts, str) else texts
  if not isinstance(texts, list):
    raise TypeError(f"texts are a {type(texts).__name__}; a text or a list is expected")
  start, end, key = seconds(given.get("start") or 0), None, media
  if given.get("end") not in (None, ""):
    start, end = span(start, given["end"])
    key = f"{media}_{start:g}_{end:g}"
  elif start:
    key = f"{media}_{start:g}"
  label = given.get("label")
  return ClipRow(
    key=str(given.get("key") or key),
    media=pathlib.PurePosixPath(media).as_posix(),
    split=split if not given.get("split") else str(given["split"]),
    start=start,
    end=end,
    captions=tidy(texts),
    labels={} if label in (None, "") else {"action": str(label), "label": str(label)},
    group=str(given.get("group") or media),
  )
