"""Plain folders of clips, sounds or images; the class is the folder.

  [<split>/][<class>/]...<file>

A first folder named train, val, valid, validation, test or eval is the split. Beside a
file its texts: <name>.txt (a caption a line) and <name>.srt, .vtt, .json3, .json or
.csv (timed, `readers/subtitles.py`; language endings as in <name>.en.vtt count too).
"""

import pathlib

from data_pipelines.readers import locate, subtitles, tables
from data_pipelines.readers.clip_row import ClipRow, tidy
from vlp_jax import errors

KINDS = {"video": locate.VIDEO, "sound": locate.SOUND, "image": locate.IMAGE}
SPLITS = {
  **{"train": "train", "training": "train", "test": "test", "eval": "test"},
  **{"val": "val", "valid": "val", "validation": "val", "dev": "val"},
}
MAX_CAPTIONS = 1 << 20  # bytes of a text file


def read(source, *, kind: str = "", split: str = "train") -> list[ClipRow]:
  """Rows of all files of a kind, video, sound or image; "" for all of them.

  Args:
    split: of files that lie in no folder of a split.
  """
  if kind and kind not in KINDS:
    raise errors.UserError(f"kind={kind!r}; known: {', '.join(KINDS)}.")
  wanted = KINDS[kind] if kind else locate.MEDIA
  source, rows = pathlib.Path(source), []
  for path in sorted(locate.Files(source).paths):
    place = pathlib.PurePosixPath(path)
    if place.suffix.lower() in wanted:
      rows.append(_row(source, place, split))
  return rows


def _row(source, place, split) -> ClipRow:
  folders = list(place.parts[:-1])
  if folders and folders[0].lower() in SPLITS:
    split = SPLITS[folders.pop(0).lower()]
  label = folders[0] if folders else ""
  captions, timed = beside(source / place)
  return ClipRow(
    key=str(place),
    media=str(place),
    split=split,
    captions=captions,
    subtitles=timed,
    labels={"action": label, "label": label} if label else {},
    group=str(place),
  )


def beside(path: pathlib.Path) -> tuple[tuple[str, ...], str]:
  """(captions, file of timed texts or "") that lie beside a media file."""
  at = path.with_suffix(".txt")
  captions = ()
  if at.is_file() and at.stat().st_size <= MAX_CAPTIONS:
    captions = tidy(line for line in tables.read(at).splitlines() if line.strip())
  for kind in subtitles.KINDS:
    exact = path.with_suffix(kind)
    if exact.is_file():
      return captions, str(exact.absolute())
  for kind in subtitles.KINDS:
    found = sorted(path.parent.glob(f"{_escape(path.stem)}.*{kind}"))
    if found:
      return captions, str(found[0].absolute())
  return captions, ""


def _escape(name: str) -> str:
  return "".join(f"[{c}]" if c in "*?[" else c for c in name)
