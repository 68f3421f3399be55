"""Narrated clips on disk: JSON lines beside a directory of videos.

  <split>.jsonl   a row a clip: clip_id, video (path below the source), captions [str],
                  narrations [{start, end, text}] in s; if there, shape, colour, action,
                  gallery, duration_s, steps, qa, choices, tags, objects [{role, boxes
                  [[x1, y1, x2, y2] in 0..1 or null, a frame each]}]
  corpus.json     shapes, colours, actions (the classes), licence; may be missing

`data_pipelines.synthetic` writes this layout. Texts that are empty or no Unicode are
dropped and longer ones cut at 10,000 characters; how many is counted.
"""

import json
import pathlib

from vlp_jax import errors

CLASSES = {"shape": "shapes", "colour": "colours", "action": "actions"}
KEPT = ("video", "captions", "narrations", "duration_s", "gallery", *CLASSES)
KEPT += ("steps", "qa", "choices", "tags")  # of objects the subject's boxes only
MAX_CHARACTERS = 10_000
MAX_S = 1e9  # of a time; JSON has integers that no float holds


def read(source, limit: int = 0) -> tuple[dict, dict[str, list[dict]]]:
  """(corpus, split -> rows with a `key`), rows in the order of the files.

  A line that is no row becomes one with an `error`, for the quarantine.

  Raises: UserError if there is no <split>.jsonl or corpus.json is no JSON object.
  """
  source = pathlib.Path(source)
  files = sorted(source.glob("*.jsonl"))
  if not files:
    raise errors.UserError(f"{source} has no <split>.jsonl; see --help for the layout.")
  corpus, at = {}, source / "corpus.json"
  if at.exists():
    try:
      corpus = json.loads(at.read_bytes())
    except ValueError as error:
      raise errors.UserError(f"{at} is not JSON: {error}.") from None
  if not isinstance(corpus, dict):
    raise errors.UserError(f"{at} is no JSON object.")
  splits, seen = {}, set()
  for file in files:
    rows = []
    with file.open("rb") as f:
      for number, line in enumerate(f, 1):
        if limit and len(rows) == limit:
          break
        if line.strip():
          rows.append(_row(line, f"{file.name}:{number}", seen))
    splits[file.stem] = rows
  return corpus, splits


def _row(line: bytes, place: str, seen: set) -> dict:
  try:
    row = json.loads(line.decode("utf-8"))
    key = row["clip_id"]
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    return {"key": place, "error": f"no row: {type(error).__name__} {error}"}
  if not isinstance(key, str) or not text_of(key) or key in seen:
    return {"key": place, "error": f"clip_id {key!r} is repeated or no name"}
  seen.add(key)
  boxes = subject_boxes(row)
  found = {"key": key} | {k: row[k] for k in KEPT if k in row}
  return found | ({"boxes": boxes} if boxes else {})


def subject_boxes(row) -> list:
  """Box of the subject, the thing that sounds, in each frame; None where there is none.

  Long videos have several subjects, one after the other. [] where the row names none.
  """
  things = row.get("objects")
  things = things if isinstance(things, list) else []
  things = [o for o in things if isinstance(o, dict) and o.get("role") == "subject"]
  tracks = [o["boxes"] for o in things if isinstance(o.get("boxes"), list)]
  frames = zip(*tracks, strict=False)
  return [next((box for box in boxes if box is not None), None) for boxes in frames]


def classes(corpus, splits) -> dict[str, list[str]]:
  """Names of the classes of each label: the corpus's own, else all that occur."""
  found = {}
  for name, plural in CLASSES.items():
    values = {r[name] for rows in splits.values() for r in rows if text_of(r.get(name))}
    found[name] = list(corpus.get(plural) or sorted(values))
  return found


def text_of(value) -> str:
  """The value as Unicode text of bounded length, "" for what is none."""
  if not isinstance(value, str) or not value.strip():
    return ""
  try:
    value.encode()
  except UnicodeEncodeError:  # half a surrogate pair
    return ""
  return value[:MAX_CHARACTERS]


def captions(row) -> tuple[list[str], int]:
  """(texts kept, number of texts dropped or cut)."""
  given = row.get("captions") or []
  given = given if isinstance(given, list) else [given]
  texts = [text_of(t) for t in given]
  lost = sum(not t or t != g for t, g in zip(texts, given, strict=True))
  return [t for t in texts if t], lost


def narrations(row) -> tuple[list[tuple], int]:
  """([(text, start in s, end in s)], number dropped or cut), in the order given."""
  kept, lost = [], 0
  for n in row.get("narrations") or []:
    n = n if isinstance(n, dict) else {}
    text, start, end = text_of(n.get("text")), n.get("start"), n.get("end")
    timed = all(isinstance(t, int | float) and abs(t) <= MAX_S for t in (start, end))
    good = bool(text) and timed and start <= end
    if good:
      kept.append((text, float(start), float(end)))
    lost += not good or text != n["text"]
  return kept, lost


def _strings(value) -> list[str]:
  """All strings of lists and dicts of them, the names of the fields left out."""
  if isinstance(value, dict):
    value = list(value.values())
  if isinstance(value, list):
    return [t for v in value for t in _strings(v)]
  return [value] if text_of(value) else []


def training_texts(splits) -> list[str]:
  """Captions, narrations, questions and answers of the splits `train*`.

  Raises: UserError if there is none.
  """
  rows = [r for s, rows in splits.items() if s.startswith("train") for r in rows]
  texts = []
  for row in rows:
    texts += captions(row)[0] + [t for t, _, _ in narrations(row)[0]]
    texts += _strings([row.get("qa"), row.get("choices")])
  if not texts:
    raise errors.UserError(
      "no training text (split train*) to learn a vocabulary from; give --vocab_file."
    )
  return texts
