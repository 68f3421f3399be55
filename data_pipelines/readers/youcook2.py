"""YouCook2: cooking videos with described steps (Zhou et al., AAAI 2018).

  <split>_youcook.csv                  end, start, task, text, video_id (HowTo100M's and
                                       MIL-NCE's retrieval clips; 3,350 for validation)
  youcookii_annotations_trainval.json  {"database": {video: {duration, subset,
                                       recipe_type, annotations: [{segment: [s, e], id,
                                       sentence}]}}}

A row is a step; the video `<video_id>` lies anywhere below the media directory (MIL-NCE
has validation/<task>/<video_id>.<ending>).
"""

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad, span, tidy
from vlp_jax import errors

FILES = ("*youcook*.csv", "youcookii_annotations*.json")
_SUBSETS = {"training": "train", "validation": "val", "testing": "test"}


def read(source) -> list[ClipRow]:
  """Rows of the csv or json file that the source is or has."""
  at = tables.first(source, *FILES)
  return _csv(at) if at.suffix == ".csv" else _json(at)


def _row(video, number, start, end, text, recipe, split) -> ClipRow:
  key = f"{video}_{number:02d}"
  try:
    start, end = span(start, end)
    return ClipRow(
      key=key,
      media=video,
      split=split,
      start=start,
      end=end,
      captions=tidy([text]),
      labels={"recipe": str(recipe)},
      group=video,
    )
  except tables.WRONG as error:
    return bad(key, error, split)


def _csv(at) -> list[ClipRow]:
  rows, count, split = [], {}, tables.split_of(at)
  for line, row in tables.rows(at, ("start", "end", "text", "video_id")):
    if isinstance(row, Exception):
      rows.append(bad(f"{at.name}:{line}", row, split))
      continue
    video = row["video_id"]
    number = count[video] = count.get(video, -1) + 1
    about = row["text"], row.get("task", "")
    rows.append(_row(video, number, row["start"], row["end"], *about, split))
  return rows


def _json(at) -> list[ClipRow]:
  rows = []
  try:
    for video, about in tables.value(at)["database"].items():
      split = _SUBSETS.get(about["subset"], about["subset"])
      for number, a in enumerate(about.get("annotations", ())):
        given = (*a["segment"], a["sentence"], about["recipe_type"])
        rows.append(_row(video, number, *given, split))
  except tables.WRONG as error:
    raise errors.UserError(
      f"{at} is no YouCook2 json: {type(error).__name__} {error}."
    ) from None
  return rows
