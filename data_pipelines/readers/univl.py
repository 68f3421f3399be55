"""UniVL's files (arXiv 2002.06353): lists of videos and pickled captions.

  read      HowTo100M.csv, youcookii_{train,val}.csv: video_id, feature_file; beside
            them caption.pickle {video: {start: [s], end: [s], text: [...]}}, or
            youcookii_data.pickle, which has `transcript` too
  pickled   youcook_{train,val}.pkl of HowTo100M: a list of {"id", "caption", "2d",
            "3d"}

Where there are transcripts a row is a clip, its text the caption and its transcript
what is said; else a row is a video with all that is said. Lists may be arrays of
objects. MSR-VTT's files of UniVL are those of `msrvtt.py`. The features are pickles by
video or by `feature_file`: see `feature_stores.py`.
"""

import pathlib

from data_pipelines.readers import packed, subtitles, tables
from data_pipelines.readers.clip_row import ClipRow, Said, bad, span, tidy
from vlp_jax import errors

TABLES = ("HowTo100M*.csv", "youcookii_*.csv")
CAPTIONS = ("caption.pickle", "youcookii_data.pickle", "caption*.pkl", "*.pickle")


def read(source, *, captions: str = "", only=None) -> list[ClipRow]:
  """Rows of all tables of a directory, or of one table.

  Args:
    captions: the pickle in the source, if not one of those above.
    only: names of videos or files; others are left out. None for all.
  Raises: UserError without a table or captions, or where these are of another form.
  """
  source = pathlib.Path(source)
  folder = source.parent if source.is_file() else source
  files = [source] if source.is_file() else []
  for name in TABLES if not files else ():
    files += sorted(folder.glob(name))
  if not files:
    raise errors.UserError(f"{folder} has none of {', '.join(TABLES)}.")
  at = folder / captions if captions else tables.first(folder, *CAPTIONS)
  told, rows = packed.pickle_file(at), []
  if not isinstance(told, dict):
    raise errors.UserError(f"{at} is no pickle of {{video: {{start, end, text}}}}.")
  for file in files:
    split = tables.split_of(file)
    for line, row in tables.rows(file, ("video_id", "feature_file")):
      if isinstance(row, Exception):
        rows.append(bad(f"{file.name}:{line}", row, split))
        continue
      video, stem = row["video_id"], row["feature_file"]
      known = {video, stem, stem.rpartition(".")[0]}
      if only is not None and not any(k in only for k in known):
        continue
      if video not in told:
        rows.append(bad(f"{file.name}:{line}", f"{video} is not in {at.name}", split))
        continue
      rows += _rows(video, (stem,), told[video], split)
  return rows


def _list(value) -> list:
  return value.tolist() if hasattr(value, "tolist") else list(value)


def _rows(video, also, told, split) -> list[ClipRow]:
  base = ClipRow(key=video, media=video, also=also, split=split, group=video)
  try:
    lists = {k: _list(told[k]) for k in ("start", "end", "text")}
    if "transcript" in told:
      return _clips(base, lists, _list(told["transcript"]))
    said, _ = subtitles.clean(subtitles.lists(lists))
  except tables.WRONG as error:
    return [bad(video, error, split)]
  return [base._replace(said=tuple(said))]


def _clips(base, lists, transcripts) -> list[ClipRow]:
  rows = []
  whole = zip(lists["text"], transcripts, lists["start"], lists["end"], strict=True)
  for number, (text, words, start, end) in enumerate(whole):
    key = f"{base.key}_{number:02d}"
    try:
      start, end = span(start, end)
      row = base._replace(key=key, start=start, end=end, captions=tidy([text]))
      spoken = isinstance(words, str) and words.strip()
      rows.append(row._replace(said=(Said(words, start, end),) if spoken else ()))
    except tables.WRONG as error:
      rows.append(bad(key, error, base.split))
  return rows


def pickled(source) -> list[ClipRow]:
  """Rows of HowTo100M's pickled clips; their features lie in the same file."""
  at = tables.first(source, "youcook*.pkl", "*.pkl")
  split, rows, found = tables.split_of(at), [], packed.pickle_file(at)
  if not isinstance(found, list):
    raise errors.UserError(f"{at} is no pickle of a list of clips.")
  for number, row in enumerate(found):
    try:
      key = str(row["id"])
      rows.append(
        ClipRow(key=key, media=key, split=split, captions=tidy([row["caption"]]))
      )
    except tables.WRONG as error:
      rows.append(bad(f"{at.name}:{number}", error, split))
  return rows
