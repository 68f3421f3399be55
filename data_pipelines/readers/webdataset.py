"""Tars of samples: webdataset, and what img2dataset and video2dataset write.

  <shard>.tar   members <key>.<ending>, those with one key being one sample:
                mp4, webm, wav, flac, jpg ...   the media (the first of them)
                txt                             a caption
                json                            caption, label, clip_start, duration ...
                cls                             a class

The key is the path up to the first dot of the file's name. Without a split in the
shard's name all is for training. Tars are read by place and must not be compressed.
"""

import json
import pathlib

from data_pipelines import media as media_lib
from data_pipelines.readers import archives, locate, tables
from data_pipelines.readers.clip_row import ClipRow, bad, tidy
from vlp_jax import errors

MAX_TEXT = 1 << 24  # bytes of a text member
CAPTIONS = ("caption", "captions", "text", "title")


def read(source, *, split: str = "") -> list[ClipRow]:
  """Rows of a tar file, or of all in a directory."""
  source = pathlib.Path(source)
  files = [source] if source.is_file() else sorted(source.rglob("*.tar"))
  if not files:
    raise errors.UserError(f"{source} has no .tar file.")
  root = source.parent if source.is_file() else source
  rows = []
  for at in files:
    shard = at.relative_to(root).as_posix()
    samples = {}
    for name in archives.members(at):
      folder, slash, file = name.rpartition("/")
      stem, _, ending = file.partition(".")
      if stem:
        samples.setdefault(f"{folder}{slash}{stem}", {})[ending.lower()] = name
    own = split or tables.split_of(at)
    rows += [_row(at, shard, key, parts, own) for key, parts in samples.items()]
  return rows


def _row(at, shard, key, parts, split) -> ClipRow:
  name = f"{shard}:{key}"
  member = next((m for e, m in parts.items() if f".{e}" in locate.MEDIA), "")
  if not member:
    return bad(name, f"no media among {', '.join(sorted(parts))}", split)
  try:
    texts = {e: _text(at, parts[e]) for e in ("txt", "json", "cls") if e in parts}
    about = json.loads(texts["json"]) if "json" in texts else {}
    if not isinstance(about, dict):
      raise ValueError("its json is no object")
    given = next((about[k] for k in CAPTIONS if about.get(k)), ())
    captions = [given] if isinstance(given, str) else list(given)
    captions = [texts["txt"]] if texts.get("txt", "").strip() else captions
    label = texts.get("cls", "").strip() or about.get("label")
  except (media_lib.MediaError, RecursionError, *tables.WRONG) as error:
    return bad(name, error, split)
  labels = {} if label in (None, "") else {"action": str(label), "label": str(label)}
  return ClipRow(
    key=name,
    media=shard,
    member=member,
    split=split,
    captions=tidy(captions),
    labels=labels,
    group=str(about.get("url") or name),
  )


def _text(at, member) -> str:
  if archives.members(at)[member].size > MAX_TEXT:
    raise ValueError(f"{member} is over {MAX_TEXT} bytes")
  return tables.decode(archives.read(at, member))
