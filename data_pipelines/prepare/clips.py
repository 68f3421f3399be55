"""Clips of users' videos with their texts and labels, in any format of `readers`.

The source holds the annotations (`--format`, see `readers/locate.py`), `--videos` the
media files. Videos that are not there are left out and counted. A video is decoded
once for all of its clips; a row without an end, a whole video, is cut every `clip_s`
seconds.

Result: SequenceExamples of kind `narrated_clips` (`prepare/narrated.py`). Frames lie on
the grid k / rate_hz of the video, times count from the start of the clip. A class goes
to label/action, other labels to tag/<name>, many labels (verbs, nouns) as a list.
Images and stored frames become clips of one frame each 1 / rate_hz. With clip_s 0, so
that none is cut, annotated moments are kept (`prepare/_moments.py`): launch.extract
carries them over to its features, for `task: moments`.
"""

import functools
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines import media, records, vocabularies
from data_pipelines.media import audio as sound_lib
from data_pipelines.media import image, video
from data_pipelines.prepare import _moments, narrated, shards
from data_pipelines.readers import clip_row, contents, locate, subtitles
from data_pipelines.readers import narrated as narrated_reader
from vlp_jax import errors

PER_SHARD = 32  # files
GAP_S = 10.0  # clips so close are decoded in one run
RUN_S = 600.0  # a run that is so long takes no more clips


def prepare(
  source,
  out,
  *,
  format: str = "",
  videos: str = "",
  options: str = "",
  limit: int = 0,
  dry_run: bool = False,
  processes: int = 1,
  rate_hz: float = 8.0,
  size: int = 72,
  quality: int = 95,
  subsampling: int = 2,
  audio: bool = True,
  audio_hz: int = 16_000,
  clip_s: float = 32.0,
  least_s: float = 0.0,
  vocab: str = "words",
  vocab_file: str = "",
  quiet: bool = False,
) -> dict:
  """Prepares clips of videos.

    format      of the annotations: howto100m, msrvtt, youcook2, tvr, tvr:tvqa, didemo,
                activitynet, lsmdc, webvid, crosstask, ego, ego:epic, actions, pairs,
                folder, webdataset, parquet, violet ...
    videos      directory of the media files, if it is not the source
    options     of the format, "key=value,key=value"; see its file in readers/
    limit       rows of each split, 0 for all
    rate_hz     frames a second that are kept
    size        short side of the frames in pixels; smaller videos are not enlarged
    quality     of the JPEGs; subsampling 0 keeps their colours at full resolution
    audio_hz    sampling rate of the sound
    clip_s      length in s into which whole videos are cut, 0 for one record each
    least_s     a shorter clip goes on behind its end, as far as its video does; 3.3 for
                windows of 3.2 s that read on there, as MIL-NCE's published loader
    vocab       kind of the vocabulary, words or wordpiece
    vocab_file  an existing one; else it is learned from the texts of the split train,
                if there are any

  Returns: dataset_info, or the estimate of a dry run.
  """
  if rate_hz <= 0 or size < 1 or not 1 <= quality <= 100 or audio_hz < 1:
    raise errors.UserError(
      f"rate_hz={rate_hz}, size={size}, quality={quality}, audio_hz={audio_hz}: "
      "positive numbers are expected, quality at most 100."
    )
  if min(clip_s, least_s) < 0:
    raise errors.UserError(f"clip_s={clip_s}, least_s={least_s} must not be negative.")
  root, splits, missing = locate.present(source, videos, format, options, limit)
  rows = list(itertools.chain.from_iterable(splits.values()))
  classes = {"shape": [], "colour": [], "action": clip_row.names(rows, "action")}
  settings = {
    "dataset": f"clips/{format}",
    "options": options,
    "rate_hz": rate_hz,
    "size": size,
    "jpeg_quality": quality,
    "jpeg_subsampling": subsampling,
    "audio_hz": audio_hz if audio else 0,
    "clip_s": clip_s,
    "limit": limit,
  }
  settings |= {"least_s": least_s} if least_s else {}
  about = {} if clip_s else _moments.about(rows)
  info = {
    "name": format.replace(":", "_"),
    "kind": "narrated_clips",
    "licence": "see the source",
    "classes": classes,
    "missing_files": missing,
    **about,
  }
  if "classes" in about:
    info["classes"] = classes | about["classes"]
  words = _words(splits, vocab, vocab_file)
  if words is not None:
    settings |= {"vocab": vocab, "vocab_digest": words.digest}
    numbers = {"size": words.spec.size, "digest": words.digest}
    info["vocab"] = {"name": vocab, "file": "vocab.txt", **numbers}
  encode = functools.partial(
    encoded,
    root=str(root),
    classes=classes,
    rate_hz=rate_hz,
    size=size,
    jpeg={"quality": quality, "subsampling": subsampling},
    audio_hz=settings["audio_hz"],
    clip_s=clip_s,
    least_s=least_s,
  )
  written = shards.write(
    out,
    {split: by_file(rows, about) for split, rows in splits.items()},
    encode,
    columns=(*narrated.COLUMNS, *(_moments.COLUMNS if about else ())),
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


def by_file(rows: Sequence[clip_row.ClipRow], about: Mapping | None = None):
  """A dict for JSON of each file with its clips; damaged rows have an `error`.

  `about` moments: see `_moments.about`; none are kept without.
  """
  files = {}
  for row in rows:
    if row.error:
      files[row.key, None] = {"key": row.key, "error": row.error}
      continue
    key = f"{row.media}!{row.member}" if row.member else row.media
    file = files.setdefault(
      key, {"key": key, "media": row.media, "member": row.member, "clips": []}
    )
    clip = row._asdict()
    for name in ("media", "member", "also", "split", "error", "moments"):
      del clip[name]
    if about:
      clip["annotated"] = _moments.plain(row, about)
    file["clips"].append(clip | {"labels": dict(row.labels)})
  return list(files.values())


def _words(splits, vocab, vocab_file):
  if vocab_file:
    return vocabularies.build({"name": vocab, "file": vocab_file})
  texts = [
    text
    for row in splits.get("train", ())
    for text in (*row.captions, *(s.text for s in subtitles.timed(row)))
    if narrated_reader.text_of(text)
  ]
  return vocabularies.learn(vocab, texts) if texts else None


class _Clip(NamedTuple):
  """A clip to be made. `first`, `last`: places on the grid of frames, inclusive."""

  row: Mapping
  key: str
  start: float
  end: float
  first: int
  last: int


def encoded(
  file: Mapping,
  *,
  root: str,
  classes: Mapping[str, list],
  rate_hz: float,
  size: int,
  jpeg: Mapping,
  audio_hz: int,
  clip_s: float,
  least_s: float = 0.0,
) -> Iterator:
  """(SequenceExample bytes, index columns), or `Refused`, of each clip of a file.

  Raises: ValueError for a row or a file that is damaged.
  """
  if "error" in file:
    raise ValueError(file["error"])
  at = contents.source(root, file["media"], file["member"])
  rows = file["clips"]
  if isinstance(at, list) or _is_image(file["media"], file["member"]):
    pictures = at if isinstance(at, list) else [at]
    frames = _stills(pictures, size, jpeg)
    for row in rows:
      end = len(frames) / rate_hz
      clip = _Clip(row, row["key"], 0.0, end, 0, len(frames) - 1)
      yield _record(clip, dict(enumerate(frames)), None, classes, rate_hz, 0)
    return
  duration = video.probe(at).duration_s
  clips = [c for row in rows for c in _cut(row, duration, rate_hz, clip_s, least_s)]
  make = functools.partial(_run, at, classes, rate_hz, size, jpeg, audio_hz)
  for run in _runs(clips):
    yield from make(run)


def _is_image(path, member) -> bool:
  return pathlib.PurePath(member or path).suffix.lower() in locate.IMAGE


def _stills(pictures, size, jpeg) -> list[tuple[bytes, tuple]]:
  """(JPEG, shape) of each; all take the size of the first."""
  out, target = [], None
  for given in pictures:
    pixels = image.decode(given)
    target = target or video.scaled(pixels.shape[1], pixels.shape[0], size)
    pixels = image.resize(pixels, *target)
    out.append((image.encode_jpeg(pixels, **jpeg), pixels.shape))
  if not out:
    raise media.MediaError("no pictures.")
  return out


def _cut(row, duration, rate_hz, clip_s, least_s=0.0) -> Iterator[_Clip]:
  """The clips of a row: itself, or the windows of a whole video."""
  start, end = row["start"], row["end"]
  stop = duration if end is None else max(end, min(start + least_s, duration))
  parts = [(row["key"], start, stop)]
  if end is None and clip_s and stop - start > 1.5 * clip_s:
    # What remains at the end, less than half a window, stays with the last one.
    num = max(1, int((stop - start) / clip_s + 0.5))
    edges = [start + k * clip_s for k in range(num)] + [stop]
    parts = [
      (f"{row['key']}/{k:04d}", a, b)
      for k, (a, b) in enumerate(itertools.pairwise(edges))
    ]
  for key, a, b in parts:
    first = int(np.ceil((a - video.EPSILON_S) * rate_hz))
    last = int(np.ceil((b - video.EPSILON_S) * rate_hz)) - 1
    if last < first:  # between two places of the grid: the one before
      first = last = max(0, int(a * rate_hz))
    yield _Clip(row, key, a, b, first, last)


def _runs(clips: Sequence[_Clip]) -> list[list[_Clip]]:
  """Clips that one decoding pass makes: close to each other, in order of time."""
  runs, until = [], 0.0
  for clip in sorted(clips, key=lambda c: (c.start, c.end)):
    near = runs and clip.start <= until + GAP_S
    if near and clip.start < runs[-1][0].start + RUN_S:
      runs[-1].append(clip)
    else:
      runs.append([clip])
      until = 0.0
    until = max(until, clip.end)
  return runs


def _run(at, classes, rate_hz, size, jpeg, audio_hz, clips) -> Iterator:
  """Decodes a run and makes its clips; damage inside costs this run."""
  first = min(c.first for c in clips)
  start, end = first / rate_hz, max((c.last + 1) / rate_hz for c in clips)
  wanted = {k for c in clips for k in range(c.first, c.last + 1)}
  frames, pcm = {}, None
  try:
    shown = video.frames(at, rate_hz=rate_hz, start_s=start, end_s=end, size=size)
    for k, (_, pixels) in enumerate(shown, first):
      if k in wanted:
        frames[k] = image.encode_jpeg(pixels, **jpeg), pixels.shape
    if audio_hz:
      begin, stop = min(c.start for c in clips), max(c.end for c in clips)
      pcm = sound_lib.samples(at, rate_hz=audio_hz, start_s=begin, end_s=stop)
  except media.MediaError as error:
    yield from (shards.Refused(c.key, str(error)) for c in clips)
    return
  for clip in clips:
    sound = None
    if pcm is not None:
      a = round((clip.start - begin) * audio_hz)
      sound = pcm[a : a + round((clip.end - clip.start) * audio_hz)]
    try:
      yield _record(clip, frames, sound, classes, rate_hz, audio_hz)
    except (ValueError, KeyError, TypeError) as error:
      yield shards.Refused(clip.key, " ".join(str(error).split()))


def _record(clip, frames, sound, classes, rate_hz, audio_hz) -> tuple[bytes, dict]:
  places = [k for k in range(clip.first, clip.last + 1) if k in frames]
  if not places:
    raise ValueError(f"the video ends before the clip, which begins at {clip.start} s")
  end = clip.end
  if places[-1] < clip.last:  # the video ends inside the clip
    end = min(end, (places[-1] + 1) / rate_hz)
  row, lost = _told(clip.row, clip.start, end)
  context, lists, columns = narrated.told(row, classes)
  shape = frames[places[0]][1]
  context |= {
    "key": clip.key,
    "video/height": shape[0],
    "video/width": shape[1],
    "video/rate_hz": float(rate_hz),
    "duration_s": end - clip.start,
  }
  for name, value in clip.row["labels"].items():
    if name not in classes:
      context[f"tag/{name}"] = value if isinstance(value, list) else str(value)
  if sound is not None and len(sound):
    pcm = sound[: round((end - clip.start) * audio_hz)].astype("<i2").tobytes()
    context |= {"audio/pcm": pcm, "audio/rate_hz": float(audio_hz)}
  if "annotated" in clip.row:
    _moments.add(clip.row["annotated"], clip.start, context, lists, columns)
  lists["video/frames"] = [frames[k][0] for k in places]
  # The place before the clip, where none lies inside, is shown at its start.
  lists["video/times"] = [max(0.0, k / rate_hz - clip.start) for k in places]
  columns |= {
    "duration_s": end - clip.start,
    "num_frames": len(places),
    "texts_lost": columns["texts_lost"] + lost,
  }
  return records.encode(context, lists), columns


def _told(row, start, end) -> tuple[dict, int]:
  """(row as `prepare.narrated` has it, texts lost in its file of subtitles)."""
  said = [clip_row.Said(*s) for s in row["said"]]
  lost = 0
  if row["subtitles"]:
    found, lost = subtitles.read(row["subtitles"])
    said += found
  labels = row["labels"]
  inside = clip_row.overlapping(said, start, end)
  return {
    "captions": list(row["captions"]),
    "narrations": [s._asdict() for s in inside],
    "choices": [
      {"question": q, "choices": options, "answer": answer}
      for q, options, answer in row["choices"]
    ],
    **{k: labels[k] for k in narrated_reader.CLASSES if k in labels},
  }, lost
