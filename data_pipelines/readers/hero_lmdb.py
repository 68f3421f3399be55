"""HERO's databases of subtitles and queries (arXiv 2005.00200), with their times.

Values are LZ4 frames of msgpack maps, keys are videos, or queries:

  read     subtitles: {vid_name, sub: [{text, start, end}], input_ids,
           unique_sub2frames, duration, ...}; a row a video with all that is said
  queries  moments and questions: {desc, vid or vid_name, ts: [s, e], ...}, {q, a0 ..
           a4, target, ...}; a row a query
  tvc      a directory of TVC with two databases, one of which is enough:
             clip.db  clip: {vid_name, ts, duration, sub_indices, captions: [{id, text,
                      input_ids}]}, beside it clip2vid.json, vid2clips.json
             cap.db   caption: {vid_name, clip_id, ts, desc, desc_id, input_ids, ...},
                      beside it cap2vid.json, vid2caps.json
           a row a clip, with all its captions; what a json lists and the database
           lacks is a damaged row

Texts are cleaned as the published preparation does it: HTML entities resolved, and
sentences all in capitals lowered. Where `ts` has several annotators (DiDeMo) the moment
that most of them chose counts, of equals the first. Which frames belong to a subtitle
is not taken from the file but computed from the times: `transforms/frames.py`.
Video features are read by `feature_stores.py`.
"""

import collections
import html
import json
import pathlib

from data_pipelines.readers import lmdb_file, packed, subtitles, tables
from data_pipelines.readers.clip_row import Choice, ClipRow, bad, span, stretch, tidy
from vlp_jax import errors

CLIPS, CAPTIONS = "clip.db", "cap.db"


def sentence(text: str) -> str:
  """A sentence as HERO gives it to its tokeniser."""
  text = html.unescape(text)
  return text.lower() if text.isupper() else text


def _records(source):
  """(key, map or the reason why it is none) of all records."""
  file = lmdb_file.File(source)
  for key, value in file.items():
    if key.startswith("__"):
      continue
    try:
      found = packed.msgpack(packed.lz4(value))
      if not isinstance(found, dict):
        raise ValueError(f"a {type(found).__name__} where a map is expected")
      yield key, found
    except ValueError as error:
      yield key, error


def read(source, *, split: str = "", only=None) -> list[ClipRow]:
  """Rows of a database of subtitles.

  Args:
    split: else as the name of the directory says it.
    only: names of videos; others are left out. None for all.
  """
  split, rows = split or tables.split_of(source), []
  for key, found in _records(source):
    if only is not None and key not in only:
      continue
    try:
      if isinstance(found, ValueError):
        raise found
      cues = [(sentence(s["text"]), s["start"], s["end"]) for s in found["sub"]]
      said, _ = subtitles.clean(cues)
    except tables.WRONG as error:
      rows.append(bad(key, error, split))
      continue
    video = key.partition(".")[0]  # a clip of 60 s is video.clip
    rows.append(ClipRow(key=key, media=key, split=split, said=tuple(said), group=video))
  return rows


def queries(source, *, split: str = "") -> list[ClipRow]:
  """Rows of a database of queries."""
  split, videos, rows = split or tables.split_of(source), _videos(source), []
  for key, found in _records(source):
    try:
      if isinstance(found, ValueError):
        raise found
      rows.append(_query(key, found, split, videos))
    except tables.WRONG as error:
      rows.append(bad(key, error, split))
  return rows


def _videos(source, name: str = "query2video.json") -> dict:
  """Such a file beside the database, if it is there."""
  source = pathlib.Path(source)
  at = (source if source.is_dir() else source.parent) / name
  if not at.is_file():
    return {}
  try:
    return {str(k): str(v) for k, v in json.loads(at.read_bytes()).items()}
  except (ValueError, AttributeError) as error:
    raise errors.UserError(f"{at} is no map of queries to videos: {error}.") from None


def tvc(source, *, split: str = "", subtitles: str = "") -> list[ClipRow]:
  """Rows of TVC's clips.

  Args:
    source: the directory of cap.db and clip.db, or one of them.
    split: else as the name of that directory says it.
    subtitles: a database of `read`, its path from that directory; without one, clips
      have captions only.
  """
  source = pathlib.Path(source)
  folder = source.parent if source.name in (CLIPS, CAPTIONS) else source
  split = split or tables.split_of(folder)
  if (folder / CLIPS).exists():
    found, make = folder / CLIPS, _clips
  elif (folder / CAPTIONS).exists():
    found, make = folder / CAPTIONS, _captions
  else:
    raise errors.UserError(f"{folder} has neither {CLIPS} nor {CAPTIONS} of TVC.")
  rows = make(found, split)
  if not subtitles:
    return rows
  told = read(folder / subtitles, only={row.media for row in rows})
  said = {row.media: row.said for row in told}
  return [row._replace(said=said.get(row.media, ())) for row in rows]


def _clips(source, split) -> list[ClipRow]:
  missing, rows = _videos(source, "clip2vid.json"), []
  videos = dict(missing)
  for key, found in _records(source):
    missing.pop(key, None)
    try:
      texts = [c["text"] for c in _map(found)["captions"]]
      rows.append(_clip(key, found, texts, split, videos))
    except tables.WRONG as error:
      rows.append(bad(key, error, split))
  return rows + [bad(key, f"it is not in {source}", split) for key in missing]


def _captions(source, split) -> list[ClipRow]:
  missing, rows = _videos(source, "cap2vid.json"), {}
  videos = dict(missing)
  for key, found in _records(source):
    missing.pop(key, None)
    try:
      clip = str(_map(found)["clip_id"])
      video = {clip: videos[key]} if key in videos else {}
      row = _clip(clip, found, [found["desc"]], split, video)
    except tables.WRONG as error:
      rows[f"caption {key}"] = bad(f"caption {key}", error, split)
      continue
    before = rows.setdefault(clip, row._replace(captions=()))
    if before._replace(captions=()) != row._replace(captions=()):
      place = f"caption {key}"
      rows[place] = bad(place, f"clip {clip} has another video or time there", split)
      continue
    rows[clip] = before._replace(captions=before.captions + row.captions)
  lost = [bad(f"caption {key}", f"it is not in {source}", split) for key in missing]
  return [*rows.values(), *lost]


def _map(found) -> dict:
  if isinstance(found, ValueError):
    raise found
  return found


def _clip(key, found, texts, split, videos) -> ClipRow:
  video = found.get("vid_name") or videos.get(key)
  if not video:
    raise ValueError("the record names no video")
  if videos.get(key, video) != video:
    raise ValueError(f"it is of {video} here and of {videos[key]} in the json beside")
  first, last = found["ts"]
  start, end = stretch(first, last)
  return ClipRow(
    key=key,
    media=video,
    split=split,
    start=start,
    end=end,
    captions=tidy(texts),
    group=video,
  )


def _query(key, found, split, videos) -> ClipRow:
  video = found.get("vid_name") or found.get("vid") or videos.get(key)
  if not video:
    raise ValueError("the record names no video")
  start, end = _moment(found.get("ts"))
  choices, target = (), found.get("target")
  if "q" in found:
    options = tuple(found[k] for k in sorted(found) if k[0] == "a" and k[1:].isdigit())
    answer = found.get("answer_idx", target)
    choices = (Choice(found["q"], options, -1 if answer is None else int(answer)),)
  captions = tidy([found["desc"]]) if "desc" in found else ()
  if not captions and not choices:
    raise ValueError("the record has neither a description nor a question")
  return ClipRow(
    key=key,
    media=video,
    split=split,
    start=start,
    end=end,
    captions=captions,
    choices=choices,
    group=video,
  )


def _moment(ts) -> tuple[float, float | None]:
  if ts is None or ts == []:
    return 0.0, None
  if isinstance(ts, str):
    first, _, last = ts.partition("-")
    return (0.0, None) if "nan" in ts else span(first, last)
  if isinstance(ts[0], list | tuple):
    counted = collections.Counter(tuple(t) for t in ts)
    ts = counted.most_common(1)[0][0]
  return span(*ts)
