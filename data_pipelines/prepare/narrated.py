"""Narrated clips: videos with captions and timed narrations, listed in JSON lines.

The layout of the source is that of `data_pipelines/readers/narrated.py`.

Result: SequenceExamples of kind `narrated_clips`
  context  key, video/height, video/width, video/rate_hz, duration_s, audio/pcm (int16
           mono; absent without sound, like its rate), audio/rate_hz, tag/verb|noun,
           label/shape|colour|action (-1 if unknown)
  lists    video/frames (JPEG), video/times, caption/text, narration/text|start|end,
           step/start|end|shape|colour|action, qa/question|answer,
           choice/question|options|answer, subject/box (x1 y1 x2 y2 in 0..1 for each of
           video/frames, -1 where there is none; only of corpora that know it)
and `vocab.txt`, learned from the training texts or copied.
"""

import functools
import math
import pathlib
from collections.abc import Mapping

from data_pipelines import records, vocabularies
from data_pipelines.media import audio, image, video
from data_pipelines.prepare import shards
from data_pipelines.readers import narrated
from vlp_jax import errors

COLUMNS = ("gallery", *narrated.CLASSES, "num_narrations", "num_captions", "duration_s")
COLUMNS += ("num_frames", "texts_lost")


def prepare(
  source,
  out,
  *,
  limit: int = 0,
  dry_run: bool = False,
  processes: int = 1,
  rate_hz: float = 8.0,
  size: int = 72,
  quality: int = 95,
  subsampling: int = 2,
  audio: bool = True,
  audio_hz: int = 16_000,
  vocab: str = "words",
  vocab_file: str = "",
  quiet: bool = False,
) -> dict:
  """Prepares a corpus of narrated clips.

    limit       clips of each split, 0 for all
    rate_hz     frames a second that are kept
    size        short side of the frames in pixels; smaller videos are not enlarged
                (the default is 64 and 12 % for crops)
    quality     of the JPEGs; subsampling 0 keeps their colours at full resolution
    audio_hz    sampling rate of the sound
    vocab       kind of the vocabulary, words or wordpiece
    vocab_file  an existing vocabulary instead of one learned from the training texts

  Returns: dataset_info, or the estimate of a dry run.
  """
  source, out = pathlib.Path(source), pathlib.Path(out)
  if rate_hz <= 0 or size < 1 or not 1 <= quality <= 100 or audio_hz < 1 or limit < 0:
    raise errors.UserError(
      f"rate_hz={rate_hz}, size={size}, quality={quality}, audio_hz={audio_hz}, "
      f"limit={limit}: positive numbers are expected, quality at most 100."
    )
  corpus, splits = narrated.read(source, limit)
  classes = narrated.classes(corpus, splits)
  settings = {
    "dataset": "narrated",
    "rate_hz": rate_hz,
    "size": size,
    "jpeg_quality": quality,
    "jpeg_subsampling": subsampling,
    "audio_hz": audio_hz if audio else 0,
    "limit": limit,
  }
  if vocab_file:
    words = vocabularies.build({"name": vocab, "file": vocab_file})
  else:
    words = vocabularies.learn(vocab, narrated.training_texts(splits))
  info = {
    "name": str(corpus.get("name", "narrated")),
    "kind": "narrated_clips",
    "licence": str(corpus.get("licence", "see the source")),
    "classes": classes,
    "vocab": {
      "name": vocab,
      "file": "vocab.txt",
      "size": words.spec.size,
      "digest": words.digest,
    },
  }
  settings |= {"vocab": vocab, "vocab_digest": words.digest}
  encode = functools.partial(
    record,
    source=str(source),
    classes=classes,
    rate_hz=rate_hz,
    size=size,
    jpeg={"quality": quality, "subsampling": subsampling},
    audio_hz=settings["audio_hz"],
  )
  written = shards.write(
    out,
    splits,
    encode,
    columns=COLUMNS,
    settings=settings,
    info=info,
    processes=processes,
    dry_run=dry_run,
    quiet=quiet,
  )
  if not dry_run:
    words.save(out / "vocab.txt")
  return written


def _below(source: str, path) -> pathlib.Path:
  root = pathlib.Path(source).resolve()
  at = (root / str(path)).resolve()
  if not path or not at.is_relative_to(root):
    raise ValueError(f"video {path!r} does not lie below the source")
  return at


def record(
  row: Mapping,
  *,
  source: str,
  classes: Mapping[str, list],
  rate_hz: float,
  size: int,
  jpeg: Mapping,
  audio_hz: int,
) -> tuple[bytes, dict]:
  """(SequenceExample bytes, index columns) of one clip.

  Raises: ValueError for a row or a file that is damaged.
  """
  if "error" in row:
    raise ValueError(row["error"])
  path = _below(source, row.get("video"))
  times, frames, shape = [], [], (0, 0, 3)
  for t, pixels in video.frames(path, rate_hz=rate_hz, size=size):
    times.append(t)
    frames.append(image.encode_jpeg(pixels, **jpeg))
    shape = pixels.shape
  try:
    duration = float(row.get("duration_s", len(frames) / rate_hz))
    context, lists, columns = told(row, classes)
    if not 0 < duration < math.inf:
      raise ValueError(f"duration_s is {duration}; a positive number is expected")
    lists |= _boxes(row.get("boxes"), times, duration)
  except (KeyError, TypeError, AttributeError, OverflowError) as error:
    raise ValueError(f"malformed row: {type(error).__name__} {error}") from None
  context |= {
    "key": row["key"],
    "video/height": shape[0],
    "video/width": shape[1],
    "video/rate_hz": float(rate_hz),
    "duration_s": duration,
  }
  pcm = audio.samples(path, rate_hz=audio_hz, end_s=duration) if audio_hz else None
  if pcm is not None:
    pcm = pcm.astype("<i2").tobytes()
    context |= {"audio/pcm": pcm, "audio/rate_hz": float(audio_hz)}
  lists |= {"video/frames": frames, "video/times": times}
  columns |= {"duration_s": duration, "num_frames": len(frames)}
  return records.encode(context, lists), columns


def told(row: Mapping, classes: Mapping[str, list]) -> tuple[dict, dict, dict]:
  """(context, lists, columns) of what the row says; raises on a malformed one.

  Raises: KeyError, TypeError, ValueError, AttributeError or OverflowError.
  """
  labels = {k: _label(row.get(k), names, k) for k, names in classes.items()}
  captions, lost = narrated.captions(row)
  narrations, more_lost = narrated.narrations(row)
  context = {f"label/{k}": v for k, v in labels.items()}
  context |= {f"tag/{k}": str(v) for k, v in (row.get("tags") or {}).items()}
  lists = {
    "caption/text": captions,
    "narration/text": [n[0] for n in narrations],
    "narration/start": [n[1] for n in narrations],
    "narration/end": [n[2] for n in narrations],
  }
  columns = labels | {
    "gallery": int(row.get("gallery", -1)),
    "num_narrations": len(narrations),
    "num_captions": len(captions),
    "texts_lost": lost + more_lost,
  }
  return context, lists | _extra(row, classes), columns


def _boxes(boxes, times, duration) -> dict[str, list]:
  """subject/box at the times of the stored frames; boxes are evenly spaced."""
  if not boxes:
    return {}
  at = [min(round(t * len(boxes) / duration), len(boxes) - 1) for t in times]
  none = [-1.0] * 4
  found = [[float(v) for v in boxes[k]] if boxes[k] else none for k in at]
  if any(len(box) != 4 for box in found):
    raise ValueError("a box of the subject has not four numbers")
  return {"subject/box": found}


def _label(name, names, kind) -> int:
  if name is None:
    return -1
  if name not in names:
    raise ValueError(f"{kind} {name!r} is none of {', '.join(names)}")
  return names.index(name)


def _extra(row, classes) -> dict[str, list]:
  """Feature lists of what only some corpora have."""
  steps, qa, choices = (row.get(k) or [] for k in ("steps", "qa", "choices"))
  lists = {}
  if steps:
    lists = {f"step/{k}": [float(s[k]) for s in steps] for k in ("start", "end")}
    for kind, names in classes.items():
      lists[f"step/{kind}"] = [_label(s.get(kind), names, kind) for s in steps]
  if qa:
    lists |= {f"qa/{k}": [str(q[k]) for q in qa] for k in ("question", "answer")}
  if choices:
    lists["choice/question"] = [str(c["question"]) for c in choices]
    lists["choice/options"] = [[str(o) for o in c["choices"]] for c in choices]
    lists["choice/answer"] = [int(c["answer"]) for c in choices]
  return lists
