"""TVR, TVC and TVQA: moments, captions and questions of TV clips, JSON lines.

  read   tvr_<split>_*.jsonl   {vid_name, duration, ts: [s, e], desc, type, desc_id}
                               (arXiv 2001.09099; `type` v, t, vt: video, text, both)
  tvc    tvc_<split>_*.jsonl   {vid_name, duration, ts, clip_id, descs: [{desc, type,
                               desc_id, from_retrieval}]}
  tvqa   tvqa_<split>.jsonl    {vid_name, qid, q, a0 .. a4, answer_idx, ts: "s-e"}
                               (arXiv 1809.01696)
  how2qa how2QA_<split>_release.csv, no header: video, "[s:e]", three wrong answers,
                               question, right answer (HERO, arXiv 2005.00200)

and beside them tvqa_preprocessed_subtitles.jsonl, {vid_name, sub: [{text, start,
end}]}.
A row is a moment; with unit=video a video with its described moments.
"""

import pathlib

from data_pipelines.readers import subtitles, tables
from data_pipelines.readers.clip_row import (
  Choice,
  ClipRow,
  Moment,
  Said,
  bad,
  seconds,
  stretch,
  tidy,
)
from vlp_jax import errors

SUBTITLES = "*subtitles*.jsonl"
UNITS = ("moment", "video")


def read(source, *, unit: str = "moment") -> list[ClipRow]:
  """Rows of TVR."""

  def moment(row):
    labels = {"type": row["type"]} if "type" in row else {}
    return str(row["desc_id"]), row["ts"], [row["desc"]], labels, ()

  return _rows(source, ("tvr_*.jsonl", "*.jsonl"), moment, unit)


def tvc(source, *, unit: str = "moment") -> list[ClipRow]:
  """Rows of TVC, all captions of a clip in one; the hidden test set has none."""

  def moment(row):
    texts = [d["desc"] for d in row.get("descs", ())]
    return str(row["clip_id"]), row["ts"], texts, {}, ()

  return _rows(source, ("tvc_*.jsonl", "*.jsonl"), moment, unit)


def tvqa(source) -> list[ClipRow]:
  """Rows of TVQA, a question each; ts "nan-nan" is the whole clip."""

  def moment(row):
    times = row.get("ts", "nan-nan")
    start, dash, end = times.partition("-")
    if not dash:
      raise ValueError(f"ts {times!r}")
    given = None if "nan" in times else (start, end)
    options = tuple(row[f"a{k}"] for k in range(5))
    choice = Choice(row["q"], options, int(row.get("answer_idx", -1)))
    return str(row["qid"]), given, [], {}, (choice,)

  return _rows(source, ("tvqa_*.jsonl", "*.jsonl"), moment, "moment")


def how2qa(source) -> list[ClipRow]:
  """Rows of How2QA; the right answer is listed last."""
  at = tables.first(source, "how2QA*.csv", "*.csv")
  rows, split = [], tables.split_of(at)
  for line, row in tables.fields(at):
    key = f"{at.stem}-{line}"
    try:
      video, times, *wrong, question, right = row
      start, end = times.strip("[] ").split(":")
      options = (*wrong, right)
      rows.append(
        ClipRow(
          key=key,
          media=video,
          split=split,
          start=seconds(start),
          end=seconds(end),
          choices=(Choice(question, options, len(options) - 1),),
          group=video,
        )
      )
    except ValueError as error:
      rows.append(bad(key, error, split))
  return rows


def _rows(source, names, moment, unit) -> list[ClipRow]:
  if unit not in UNITS:
    raise errors.UserError(f"unit={unit!r}; known: {', '.join(UNITS)}.")
  source = pathlib.Path(source)
  files = [source] if source.is_file() else []
  for name in names if source.is_dir() else ():
    files = files or [p for p in sorted(source.glob(name)) if "subtitle" not in p.name]
  if not files:
    raise errors.UserError(f"{source} has none of {', '.join(names)}.")
  said = _subtitles(source if source.is_dir() else source.parent)
  rows = []
  for file in files:
    split = tables.split_of(file)
    for line, row in tables.lines(file):
      rows.append(_row(row, f"{file.name}:{line}", split, moment, said))
  return _videos(rows) if unit == "video" else rows


def _row(row, place, split, moment, said) -> ClipRow:
  if isinstance(row, Exception):
    return bad(place, row, split)
  try:
    key, ts, captions, labels, choices = moment(row)
    start, end = (0.0, None) if ts is None else stretch(ts[0], ts[1])
    video = row["vid_name"]
    return ClipRow(
      key=key,
      media=video,
      split=split,
      start=start,
      end=end,
      captions=tidy(captions),
      said=said.get(video, ()),
      choices=choices,
      labels=labels,
      group=video,
    )
  except tables.WRONG as error:
    return bad(place, error, split)


def _subtitles(folder) -> dict[str, tuple[Said, ...]]:
  found = sorted(folder.glob(SUBTITLES))
  said = {}
  for _, row in tables.lines(found[0]) if found else ():
    try:
      cues = [(s["text"], s["start"], s["end"]) for s in row["sub"]]
      said[row["vid_name"]] = tuple(subtitles.clean(cues)[0])
    except tables.WRONG as error:
      raise errors.UserError(
        f"{found[0]}: no line {{vid_name, sub}}: {type(error).__name__} {error}."
      ) from None
  return said


def _videos(rows) -> list[ClipRow]:
  """One row a video with its moments; subtitles are left out."""
  videos = {}
  for row in rows:
    if row.error:
      videos[row.split, row.key] = row
      continue
    place = row.split, row.media
    whole = videos.get(place) or ClipRow(
      key=row.media, media=row.media, split=row.split, group=row.media
    )
    span = row.start, row.end or row.start
    said = tuple(Said(text, *span) for text in row.captions)
    moments = tuple(Moment(text, (span,)) for text in row.captions)
    videos[place] = whole._replace(
      said=whole.said + said, moments=whole.moments + moments
    )
  return list(videos.values())
