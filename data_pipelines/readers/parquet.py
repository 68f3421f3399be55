"""Parquet tables of clips or sounds with their texts (pyarrow, an optional package).

A column of media holds bytes, or {"bytes", "path"} as Hugging Face writes it, or paths
and ids of files. Known names of columns, the first that is there:

  media     video, audio, mp4, wav, image, file, path, video_path, videoid, video_id, id
  text      caption, text, sentence, transcription, name
  other     key (else __key__, uid or the row number), start, end, label, split

img2dataset and video2dataset write such tables beside their tars; there the tars are
read (`webdataset.py`).
"""

import functools
import pathlib

from data_pipelines import media
from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad, span, tidy
from vlp_jax import errors

MEDIA = ("video", "audio", "mp4", "wav", "image", "file", "path", "video_path")
MEDIA += ("videoid", "video_id", "id")
TEXT = ("caption", "text", "sentence", "transcription", "name")
KEY = ("key", "__key__", "uid")
_SMALL = ("start", "end", "label", "split")


def _arrow():
  try:
    import pyarrow.parquet as pq
  except ModuleNotFoundError:
    raise errors.UserError(
      "parquet files need the package pyarrow: pip install pyarrow."
    ) from None
  return pq


@functools.lru_cache(maxsize=4)
def _open(path: str):
  pq = _arrow()
  try:
    return pq.ParquetFile(path)
  except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
    reason = " ".join(str(error).split())
    raise errors.UserError(f"{path} is no parquet file: {reason}.") from None


def _pick(names, known, given: str = "") -> str:
  if given and given not in names:
    raise errors.UserError(f"no column {given!r}; there are {', '.join(names)}.")
  return given or next((k for k in known if k in names), "")


def read(source, *, column: str = "", text: str = "", split: str = "") -> list[ClipRow]:
  """Rows of a parquet file, or of all in a directory.

  Args:
    column, text: of the media and of the texts (a string or a list of them), if not
      by the names above.
    split: else of a column `split`, else of the file's name.
  """
  source = pathlib.Path(source)
  files = [source] if source.is_file() else sorted(source.rglob("*.parquet"))
  if not files:
    raise errors.UserError(f"{source} has no .parquet file.")
  rows = []
  for file in files:
    name = file.name if source.is_file() else file.relative_to(source).as_posix()
    rows += _file(file, name, column, text, split)
  return rows


def _file(file, name, column, text, split) -> list[ClipRow]:
  table = _open(str(file))
  names = table.schema_arrow.names
  main = _pick(names, MEDIA, column)
  if not main:
    raise errors.UserError(
      f"{file} has no column of media; it has {', '.join(names)}. Set column=."
    )
  said, key = _pick(names, TEXT, text), _pick(names, KEY)
  said = said if said != main else ""
  kind = str(table.schema_arrow.field(main).type)
  inside = "binary" in kind or kind.startswith("struct")
  wanted = [c for c in (said, key, *_SMALL) if c in names]
  wanted += [] if inside else [main]
  small = table.read(columns=sorted(set(wanted))).to_pylist()
  default, rows = split or tables.split_of(file), []
  for k in range(table.metadata.num_rows):
    row = small[k] if small else {}
    label = f"{name}#{k}"
    own = default if split else str(row.get("split") or default)
    try:
      start, end = 0.0, None
      if row.get("end") is not None:
        start, end = span(row.get("start") or 0, row["end"])
      texts = row.get(said) or ()
      texts = (texts,) if isinstance(texts, str) else tuple(texts)
      classes = {} if row.get("label") is None else {"action": str(row["label"])}
      rows.append(
        ClipRow(
          key=str(row.get(key) or label),
          media=name if inside else str(row[main]),
          member=f"{main}#{k}" if inside else "",
          split=own,
          start=start,
          end=end,
          captions=tidy(texts),
          labels=classes,
        )
      )
    except tables.WRONG as error:
      rows.append(bad(label, error, own))
  return rows


@functools.lru_cache(maxsize=2)
def _group(path: str, column: str, group: int) -> list:
  return _open(path).read_row_group(group, columns=[column]).column(0).to_pylist()


def content(path, member: str) -> bytes:
  """Bytes of "column#row".

  Raises: MediaError if there are none.
  """
  column, _, number = member.rpartition("#")
  table, k = _open(str(path)), int(number)
  try:
    for group in range(table.num_row_groups):
      size = table.metadata.row_group(group).num_rows
      if k < size:
        value = _group(str(path), column, group)[k]
        break
      k -= size
    else:
      raise media.MediaError(f"{path}: no row {number}.")
  except (OSError, ValueError, KeyError, IndexError) as error:
    if isinstance(error, media.MediaError):
      raise
    raise media.MediaError(f"{path}: {' '.join(str(error).split())}.") from None
  value = value.get("bytes") if isinstance(value, dict) else value
  if not isinstance(value, bytes):
    raise media.MediaError(f"{path}: row {number} of {column} holds no bytes.")
  return value
