"""ActivityNet Captions: long videos, every event described (arXiv 1705.00754).

  train.json, val_1.json, val_2.json   {video: {duration, timestamps: [[s, e], ...],
                                       sentences: [...]}}, video "v_<YouTube id>"

With unit=paragraph (default, as paragraph retrieval has it; val_1 is the reported one)
a row is a video with its sentences joined and its events as timed texts; with
unit=moment each event is a row.
"""

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, Said, bad, seconds, span, tidy
from vlp_jax import errors

UNITS = ("paragraph", "moment")


def read(source, *, unit: str = "paragraph", split: str = "") -> list[ClipRow]:
  """Rows of one file, or of train.json and val_1.json of a directory."""
  if unit not in UNITS:
    raise errors.UserError(f"unit={unit!r}; known: {', '.join(UNITS)}.")
  at = tables.first(source, "train.json", "val_1.json")
  files = [at]
  if not at.samefile(source):
    files = [
      p for p in (at.parent / n for n in ("train.json", "val_1.json")) if p.is_file()
    ]
  rows = []
  for file in files:
    for video, about in tables.items(file):
      try:
        rows += _rows(video, about, split or tables.split_of(file), unit)
      except tables.WRONG as error:
        rows.append(bad(video, error, split or tables.split_of(file)))
  return rows


def _rows(video, about, split, unit) -> list[ClipRow]:
  name = video.removeprefix("v_")
  whole = ClipRow(
    key=video,
    media=video,
    also=(name,),
    split=split,
    end=seconds(about["duration"]),
    group=video,
  )
  events = [
    Said(text, *span(*times))
    for text, times in zip(tidy(about["sentences"]), about["timestamps"], strict=True)
  ]
  if unit == "moment":
    return [
      whole._replace(key=f"{video}_{k:02d}", start=s, end=e, captions=(text,))
      for k, (text, s, e) in enumerate(events)
    ]
  paragraph = " ".join(e.text for e in events)
  return [whole._replace(captions=(paragraph,), said=tuple(events))]
