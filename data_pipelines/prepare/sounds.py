"""Recordings without pictures: environmental sounds, speech, sounds with captions.

The source holds the annotations (`--format esc50 | speech | speech:commands |
speech:librispeech | audioset | audioset:audiocaps | folder ...`), `--sounds` the files,
if they lie elsewhere; the sound of videos is read too.

Result: SequenceExamples of kind `sounds`
  context  key, audio/pcm (int16 mono), audio/rate_hz, duration_s, label (-1 if
           unknown), labels (numbers, if there may be many), speaker, fold, group
  lists    caption/text
and index columns label, fold, speaker, group (numbers; their names in
dataset_info.json), duration_s, num_captions. `task: sounds` streams them.
"""

import functools
from collections.abc import Mapping

from data_pipelines import records
from data_pipelines.media import audio
from data_pipelines.prepare import shards
from data_pipelines.readers import clip_row, contents, locate, narrated
from vlp_jax import errors

COLUMNS = ("label", "fold", "speaker", "group", "duration_s", "num_captions")
PER_SHARD = 512


def prepare(
  source,
  out,
  *,
  format: str = "",
  sounds: str = "",
  options: str = "",
  limit: int = 0,
  dry_run: bool = False,
  processes: int = 1,
  audio_hz: int = 16_000,
  max_s: float = 0.0,
  trim_db: float = 0.0,
  quiet: bool = False,
) -> dict:
  """Prepares recordings.

    format    of the annotations: esc50, speech, speech:commands, speech:librispeech,
              speech:speakers, audioset, audioset:audiocaps, pairs, folder ...
    sounds    directory of the files, if it is not the source
    options   of the format, "key=value,key=value"; see its file in readers/
    limit     recordings of each split, 0 for all
    audio_hz  sampling rate of what is stored
    max_s     what is longer is cut there, 0 for no limit
    trim_db   silence before and after is cut: what is so many decibels below the
              loudest moment (35 for single words), 0 to keep it

  Returns: dataset_info, or the estimate of a dry run.
  """
  if audio_hz < 1 or min(max_s, trim_db, limit) < 0:
    raise errors.UserError(
      f"audio_hz={audio_hz}, max_s={max_s}, trim_db={trim_db}, limit={limit}: positive "
      "numbers expected."
    )
  root, splits, missing = locate.present(source, sounds, format, options, limit)
  rows = [r for s in splits.values() for r in s if not r.error]
  known = {
    "label": classes(rows),
    "speaker": clip_row.names(rows, "speaker"),
    "group": sorted({r.group for r in rows}),
  }
  settings = {
    "dataset": f"sounds/{format}",
    "options": options,
    "audio_hz": audio_hz,
    "max_s": max_s,
    "limit": limit,
  }
  if trim_db:  # where it is not used, sets that were prepared before stay the same
    settings["trim_db"] = trim_db
  info = {
    "name": format.replace(":", "_"),
    "kind": "sounds",
    "licence": "see the source",
    "classes": {"label": known["label"]},
    "speakers": known["speaker"],
    "missing_files": missing,
  }
  sizes = dict(audio_hz=audio_hz, max_s=max_s, trim_db=trim_db)
  encode = functools.partial(record, root=str(root), known=known, **sizes)
  return shards.write(
    out,
    {split: [_plain(row) for row in rows] for split, rows in splits.items()},
    encode,
    columns=COLUMNS,
    settings=settings,
    info=info,
    processes=processes,
    per_shard=PER_SHARD,
    dry_run=dry_run,
    quiet=quiet,
  )


def classes(rows) -> list[str]:
  """Names by class number: the numbers of the set itself (`target`), else sorted.

  A number that no row has is "".
  Raises: UserError if a number has two names.
  """
  numbered = {}
  for row in rows:
    pairs = [(row.labels.get("target"), row.labels.get("label"))]
    pairs += zip(
      row.labels.get("targets", ()), row.labels.get("labels", ()), strict=False
    )
    for number, name in pairs:
      if number is not None and numbered.setdefault(int(number), name) != name:
        raise errors.UserError(
          f"{row.key}: class {number} is {numbered[int(number)]!r} and {name!r}."
        )
  if numbered:
    return [numbered.get(k, "") for k in range(max(numbered) + 1)]
  return clip_row.names(rows, "label")


def _plain(row: clip_row.ClipRow) -> dict:
  """A dict for JSON."""
  if row.error:
    return {"key": row.key, "error": row.error}
  out = row._asdict() | {"labels": dict(row.labels), "error": ""}
  del out["moments"]  # of videos; what is told apart by digest stays what it was
  return out


def record(
  row: Mapping,
  *,
  root: str,
  known: Mapping[str, list],
  audio_hz: int,
  max_s: float,
  trim_db: float = 0.0,
) -> tuple[bytes, dict]:
  """(SequenceExample bytes, index columns) of one recording.

  Raises: ValueError for a row or a file that is damaged, or without sound.
  """
  if row["error"]:
    raise ValueError(row["error"])
  at = contents.source(root, row["media"], row["member"])
  if isinstance(at, list):
    raise ValueError(f"{row['media']} holds pictures, no sound")
  start, end = row["start"], row["end"]
  if max_s:
    end = min(end or start + max_s, start + max_s)
  pcm = audio.samples(at, rate_hz=audio_hz, start_s=start, end_s=end)
  if pcm is None or not len(pcm):
    raise ValueError(f"{row['media']} has no sound from {start} s")
  if trim_db:
    pcm = audio.trim(pcm, rate_hz=audio_hz, db=trim_db)
  labels, names = row["labels"], known["label"]
  label = labels.get("target", -1)
  if "target" not in labels and "label" in labels:
    label = names.index(labels["label"])
  given = row["captions"]
  captions = [t for t in map(narrated.text_of, given) if t]
  speaker = labels.get("speaker", "")
  context = {
    "key": row["key"],
    "audio/pcm": pcm.astype("<i2").tobytes(),
    "audio/rate_hz": float(audio_hz),
    "duration_s": len(pcm) / audio_hz,
    "label": label,
    "speaker": speaker,
    "fold": labels.get("fold", 0),
    "group": row["group"],
  }
  if "targets" in labels:
    context["labels"] = list(labels["targets"])
  columns = {
    "label": label,
    "fold": labels.get("fold", 0),
    "speaker": known["speaker"].index(speaker) if speaker else -1,
    "group": known["group"].index(row["group"]),
    "duration_s": len(pcm) / audio_hz,
    "num_captions": len(captions),
  }
  return records.encode(context, {"caption/text": captions}), columns
