"""Clips as features over time, made before by image and video networks.

The source holds the annotations (`--format`, see `readers/locate.py`), `--features` the
folders, LMDBs or pickles, one for each network (`readers/feature_stores.py`). Rows
whose video lacks in one are left out and counted.

Result: SequenceExamples of kind `clip_features`
  context  key, group, duration_s; for each network k = 0, 1, ...: features/<k>/data
           (float16 [n, D] bytes), features/<k>/num, features/<k>/width,
           features/<k>/rate_hz
  lists    narration/text, narration/start, narration/end (s from the start of the
           clip), caption/text
and index columns duration_s, num_narrations, num_captions. `task: clip_features`
streams them. Of rows with annotated moments (`prepare/_moments.py`) these are kept too,
for `task: moments`.
"""

import functools
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines import records, vocabularies
from data_pipelines.prepare import _moments, shards
from data_pipelines.readers import (
  clip_row,
  feature_files,
  feature_stores,
  locate,
  narrated,
  subtitles,
)
from vlp_jax import errors

COLUMNS = ("duration_s", "num_narrations", "num_captions")
PER_SHARD = 256


def prepare(
  source,
  out,
  *,
  format: str = "",
  features: str = "",
  rates: str = "1.0,1.5",
  options: str = "",
  limit: int = 0,
  dry_run: bool = False,
  processes: int = 1,
  vocab_file: str = "",
  quiet: bool = False,
) -> dict:
  """Prepares clips of features.

    format      of the annotations: howto100m, youcook2, msrvtt, crosstask, coin,
                lsmdc, univl, hero_lmdb; tvr and didemo with --options unit=video ...
    features    folders of the networks, joined by commas: 2D/,3D/; also LMDBs of HERO
                and pickles, of which file.pth#2d takes one entry
    rates       features a second of each: 1.0,1.5; auto where an LMDB's name says it
    options     of the format, "key=value,key=value"; see its file in readers/
    limit       rows of each split, 0 for all
    vocab_file  of words; else they are learned from the texts of the split train

  Returns: dataset_info, or the estimate of a dry run.
  """
  folders, rates = [f for f in features.split(",") if f], rates.split(",")
  if not folders or len(folders) != len(rates):
    raise errors.UserError(
      f"features={features!r} with rates={','.join(rates)!r}: a rate for each folder."
    )
  known = [
    feature_stores.opened(folder, rate)
    for folder, rate in zip(folders, rates, strict=True)
  ]
  rows = locate.rows(format, source, given=options, files=known[0])
  return write(
    rows,
    known,
    out,
    name=format.replace(":", "_"),
    settings={"dataset": f"clip_features/{format}", "options": options, "limit": limit},
    vocab_file=vocab_file,
    limit=limit,
    dry_run=dry_run,
    processes=processes,
    quiet=quiet,
  )


def write(
  rows: Sequence[clip_row.ClipRow],
  folders: Sequence,
  out,
  *,
  name: str,
  settings: Mapping,
  vocab_file: str = "",
  limit: int = 0,
  dry_run: bool = False,
  processes: int = 1,
  quiet: bool = False,
) -> dict:
  """Shards of rows whose features lie in all of the folders, `feature_stores`."""
  present, missing = [], 0
  for row in rows:
    found = [folder.find(row) for folder in folders]
    if row.error or all(found):
      present.append((row, found))
    else:
      missing += 1
  splits = clip_row.by_split(row for row, _ in present)
  if not any(not row.error for row, _ in present):
    raise errors.UserError(
      f"none of {len(rows)} rows has features in "
      f"{', '.join(str(f.root) for f in folders)}."
    )
  at = {(row.split, row.key): found for row, found in present}
  splits = {s: rows[: limit or None] for s, rows in splits.items()}
  words = _words(splits, vocab_file)
  about = _moments.about(rows)
  widths = _widths(folders, [found for row, found in present if not row.error])
  plain = {
    split: [_plain(row, at.get((split, row.key)), about) for row in own]
    for split, own in splits.items()
  }
  encode = functools.partial(
    record,
    folders=[(str(f.root), f.rate_hz) for f in folders],
    widths=widths,
  )
  info = {
    "name": name,
    "kind": "clip_features",
    "licence": "see the source",
    "features": [
      {"width": w, "rate_hz": f.rate_hz} for w, f in zip(widths, folders, strict=True)
    ],
    "missing_files": missing,
    **about,
  }
  settings = {**settings, "rates": [f.rate_hz for f in folders], "widths": widths}
  if words is not None:
    settings["vocab_digest"] = words.digest
    numbers = {"size": words.spec.size, "digest": words.digest}
    info["vocab"] = {"name": "words", "file": "vocab.txt", **numbers}
  written = shards.write(
    out,
    plain,
    encode,
    columns=(*COLUMNS, *(_moments.COLUMNS if about else ())),
    settings=settings,
    info=info,
    processes=processes,
    per_shard=PER_SHARD,
    dry_run=dry_run,
    quiet=quiet,
  )
  if not dry_run and words is not None:
    words.save(pathlib.Path(out) / "vocab.txt")
  return written


def _plain(row: clip_row.ClipRow, found, about: Mapping) -> dict:
  """A dict for JSON; `about` moments: see `_moments.about`."""
  if row.error:
    return {"key": row.key, "error": row.error}
  out = row._asdict() | {"error": "", "features": found}
  for name in ("labels", "choices", "also", "split", "member", "moments"):
    del out[name]
  return out | ({"annotated": _moments.plain(row, about)} if about else {})


def _words(splits, vocab_file):
  if vocab_file:
    return vocabularies.build({"name": "words", "file": vocab_file})
  texts = [
    text
    for row in splits.get("train", ())
    for text in (*row.captions, *(s.text for s in subtitles.timed(row)))
    if narrated.text_of(text)
  ]
  return vocabularies.learn("words", texts) if texts else None


def _widths(folders, found) -> list[int]:
  """Of each network, by the first file that can be read."""
  widths = []
  for k, folder in enumerate(folders):
    for paths in found:
      try:
        widths.append(feature_stores.load(str(folder.root), paths[k]).shape[1])
      except (ValueError, errors.UserError):
        continue
      break
    else:
      raise errors.UserError(f"no feature file in {folder.root} can be read.")
  return widths


def record(
  row: Mapping, *, folders: Sequence[tuple[str, float]], widths: Sequence[int]
) -> tuple[bytes, dict]:
  """(SequenceExample bytes, index columns) of one clip.

  Raises: ValueError for a row or a file that is damaged.
  """
  if row["error"]:
    raise ValueError(row["error"])
  start, end, context, length = row["start"], row["end"], {}, 0.0
  for k, ((root, rate), path) in enumerate(zip(folders, row["features"], strict=True)):
    try:
      x = feature_stores.load(root, path)
    except errors.UserError as error:
      raise ValueError(str(error)) from None
    if x.shape[1] != widths[k]:
      raise ValueError(f"{path} is {x.shape[1]} wide; the others are {widths[k]}")
    first, last = 0, len(x)
    if end is not None or start:
      stop = len(x) / rate if end is None else end
      first, last = feature_files.places(start, stop, rate, len(x))
    with np.errstate(over="ignore"):
      kept = x[first:last].astype("<f2")
    if not len(kept):
      raise ValueError(f"{path} ends before the clip, which begins at {start} s")
    if not np.isfinite(kept).all():
      raise ValueError(f"{path} has features that are not finite in float16")
    length = max(length, len(kept) / rate)
    context |= {
      f"features/{k}/data": kept.tobytes(),
      f"features/{k}/num": len(kept),
      f"features/{k}/width": kept.shape[1],
      f"features/{k}/rate_hz": float(rate),
    }
  said = [clip_row.Said(*s) for s in row["said"]]
  if row["subtitles"]:
    said += subtitles.read(row["subtitles"])[0]
  inside = clip_row.overlapping(said, start, start + length if end is None else end)
  inside = [s for s in inside if narrated.text_of(s.text) and s.end >= s.start]
  inside.sort(key=lambda s: (s.start, s.end))
  captions = [c for c in map(narrated.text_of, row["captions"]) if c]
  # Features may end inside the clip: what is behind them is no data.
  duration = length if end is None else min(end - start, length)
  context |= {"key": row["key"], "group": row["group"] or row["key"]}
  context["duration_s"] = float(duration)
  lists = {
    "narration/text": [narrated.text_of(s.text) for s in inside],
    "narration/start": [float(max(s.start, 0.0)) for s in inside],
    "narration/end": [float(s.end) for s in inside],
    "caption/text": captions,
  }
  columns = {
    "duration_s": float(duration),
    "num_narrations": len(inside),
    "num_captions": len(captions),
  }
  if "annotated" in row:
    _moments.add(row["annotated"], start, context, lists, columns)
  return records.encode(context, lists), columns
