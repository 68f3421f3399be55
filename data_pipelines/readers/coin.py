"""COIN: instructional videos in steps (arXiv 1903.02874).

  COIN.json   {"database": {video: {class, recipe_type, subset, start, end, duration,
              video_url, annotation: [{id, label, segment: [start, end]}]}}}

A row is a whole video; its steps are its timed texts and its moments, whose numbers are
classes: 0 is background, and 1, 2, ... are the step ids of the whole file in order, 778
of the published one.
"""

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, Moment, Said, bad, span, tidy
from vlp_jax import errors

_SUBSETS = {"training": "train", "testing": "test", "validation": "val"}


def read(source) -> list[ClipRow]:
  """Rows of COIN.json, or of the file given."""
  at = tables.first(source, "COIN*.json", "*.json")
  try:
    database = tables.value(at)["database"]
    texts = {
      int(a["id"]): a["label"]
      for about in database.values()
      for a in about.get("annotation") or ()
    }
  except tables.WRONG as error:
    raise errors.UserError(
      f"{at} is no COIN json: {type(error).__name__} {error}."
    ) from None
  classes = {step: k for k, step in enumerate(sorted(texts), 1)}
  names = list(tidy(texts[step] for step in classes))
  return [_row(video, about, classes, names) for video, about in database.items()]


def _row(video, about, classes, names) -> ClipRow:
  split = "train"
  try:
    split = _SUBSETS.get(about["subset"], about["subset"])
    found = [(classes[int(a["id"])], *span(*a["segment"])) for a in about["annotation"]]
  except tables.WRONG as error:
    return bad(video, error, split)
  return ClipRow(
    key=video,
    media=video,
    split=split,
    said=tuple(Said(names[k - 1], start, end) for k, start, end in found),
    labels={"task": str(about.get("class", ""))},
    group=video,
    moments=tuple(Moment(names[k - 1], ((start, end),), k) for k, start, end in found),
  )
