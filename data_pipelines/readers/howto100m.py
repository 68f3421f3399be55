"""HowTo100M: narrated instructional videos (arXiv 1906.03327; captions CC BY 4.0).

On disk, in one directory (https://www.di.ens.fr/willow/research/howto100m/):

  HowTo100M_v1.csv       video_id, category_1, category_2, rank, task_id [, path]; or
  howto100m_videos.csv   video_path (MIL-NCE's list); may be missing
  raw_caption.json, raw_caption_superclean.json, caption.json (stop words removed) or
  how2_<language>.json   {video: {"start": [s], "end": [s], "text": [...]}}
  caption.pickle, .pkl   the same, pickled, lists or arrays; nothing in it is run
  howto100m_captions/    one csv a video: start, end, text (MIL-NCE)

A row is a whole video; `prepare` cuts it into clips. Captions of one JSON file are kept
in memory for the videos that are there, a pickle is first read whole; the csv files are
read with their video.
"""

import pathlib
from collections.abc import Iterator

from data_pipelines.readers import packed, subtitles, tables
from data_pipelines.readers.clip_row import ClipRow, Said, bad
from vlp_jax import errors

INDEX = ("HowTo100M_v1.csv", "howto100m_videos.csv", "HowTo100M.csv")
CAPTIONS = ("raw_caption.json", "raw_caption_superclean.json", "caption.json")
CAPTIONS += ("how2_en.json", "caption.pickle", "caption.pkl")
CAPTIONS += ("caption_howto100m_with_stopwords.pkl",)
PICKLES = (".pickle", ".pkl")
FOLDERS = ("howto100m_captions", "captions", ".")


def read(
  source, *, only=None, captions: str = "", split: str = "train"
) -> list[ClipRow]:
  """Rows of all videos of the index, or without one of all that have captions.

  Args:
    only: names of videos; captions of others are skipped. None for all.
    captions: file or directory in the source, if not the first of those above.
  Raises: UserError without captions, for a file of another form, and for a video whose
    lists are not of one length.
  """
  source = pathlib.Path(source)
  if source.is_file():
    named = "" if source.name in INDEX else source.name
    source, captions = source.parent, captions or named
  index, rows = _index(source, split)
  at = _captions(source, captions)
  said = {}
  if at.is_file():
    said = dict(_told(at, only if index is None else index.keys(), only))
  for video in index if index is not None else (said or sorted(_stems(at))):
    about = (index or {}).get(video, {})
    file = at / f"{video}.csv" if at.is_dir() else None
    rows.append(
      ClipRow(
        key=video,
        media=about.get("path") or about.get("video_path") or video,
        also=(video,),
        split=split,
        said=tuple(said.get(video, ())),
        subtitles=str(file.absolute()) if file is not None and file.is_file() else "",
        labels={
          k: about[k] for k in ("category_1", "category_2", "task_id") if about.get(k)
        },
        group=video,
      )
    )
  return rows


def _index(source, split) -> tuple[dict[str, dict] | None, list[ClipRow]]:
  """(video -> its line of the index, None without one; rows of its damaged lines)."""
  at = next((source / name for name in INDEX if (source / name).is_file()), None)
  if at is None:
    return None, []
  found, wrong = {}, []
  for line, row in tables.rows(at, ()):
    try:
      if isinstance(row, Exception):
        raise row
      path = row.get("video_path") or row.get("path") or ""
      video = row.get("video_id") or pathlib.PurePosixPath(path).stem
      if not video:
        raise ValueError("no video_id or video_path")
      found[video] = row
    except ValueError as error:
      wrong.append(bad(f"{at.name}:{line}", error, split))
  return found, wrong


def _captions(source, given) -> pathlib.Path:
  if given:
    if not (source / given).exists():
      raise errors.UserError(f"captions {source / given} do not exist.")
    return source / given
  for name in (*CAPTIONS, *FOLDERS):
    at = source / name
    if at.is_file() or (at.is_dir() and _stems(at)):
      return at
  raise errors.UserError(
    f"{source} has no captions: {', '.join(CAPTIONS)} or {FOLDERS[0]}/<video>.csv."
  )


def _stems(folder) -> set[str]:
  return {p.stem for p in folder.glob("*.csv") if p.name not in INDEX}


def _told(path, known, only) -> Iterator[tuple[str, list[Said]]]:
  """(video, timed texts) of a caption file, of the videos that matter."""
  if path.suffix in PICKLES:
    found = packed.pickle_file(path)
    if not isinstance(found, dict):
      raise errors.UserError(f"{path} is no pickle of {{video: {{start, end, text}}}}.")
    pairs = found.items()
  else:
    pairs = tables.items(path)
  for video, given in pairs:
    if (known is not None and video not in known) or (
      only is not None and video not in only
    ):
      continue
    try:
      cues = subtitles.lists(given)
    except tables.WRONG as error:
      raise errors.UserError(
        f"{path}: video {video!r} has no lists start, end, text of one length: {error}."
      ) from None
    yield video, subtitles.clean(cues)[0]
