"""Data sets that TensorFlow Datasets has built: videos, images or sounds with texts.

  python -m data_pipelines.prepare tfds --source ~/tensorflow_datasets --builder ucf101

Nothing is downloaded: build the set first. What it holds decides what is written:

  video or images   kind `narrated_clips` (`prepare/narrated.py`): frames, captions, a
                    label as label/action. An image is a clip of one frame
  audio             kind `sounds` (`prepare/sounds.py`): samples, label, captions

ucf101, coco_captions, librispeech, speech_commands, esc50 and their like are found by
the types of their features; others name them by options.
"""

import functools
import io
import pathlib
import wave
from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines import media, records, vocabularies
from data_pipelines.media import audio as sound_lib
from data_pipelines.media import image, video
from data_pipelines.prepare import narrated, shards, sounds
from data_pipelines.readers import narrated as narrated_reader
from data_pipelines.readers import tfds_files
from vlp_jax import errors

SPLITS = {"validation": "val", "test_clean": "test"}
CAPTIONS = ("captions", "caption", "text", "transcript", "sentence", "description")
KEYS = ("id", "image/filename", "filename", "file_name", "image/id", "video_id", "name")
PER_SHARD = 128


def prepare(
  source,
  out,
  *,
  builder: str = "",
  media_feature: str = "",
  label_feature: str = "",
  text_feature: str = "",
  frame_rate: float = 25.0,
  rate_hz: float = 8.0,
  size: int = 72,
  quality: int = 95,
  audio_hz: int = 16_000,
  limit: int = 0,
  vocab: str = "words",
  vocab_file: str = "",
  dry_run: bool = False,
  processes: int = 1,
  quiet: bool = False,
) -> dict:
  """Prepares a built data set of TensorFlow Datasets.

    builder        name, name/config, name:version: ucf101/ucf101_1, coco_captions,
                   librispeech ...
    media_feature  name of the video, image or audio, if it is not the first
    label_feature  name of the class, if it is not the first
    text_feature   name of the captions, if not captions, text, transcript ... or the
                   first texts
    frame_rate     frames a second of the stored videos, which their files do not tell
    rate_hz        frames a second that are kept, at most frame_rate
    size           short side of the frames in pixels; smaller ones are not enlarged
    quality        of the JPEGs
    audio_hz       sampling rate of the sound
    limit          records of each split, 0 for all
    vocab          kind of the vocabulary, words or wordpiece
    vocab_file     an existing one; else it is learned from the texts of the split
                   train, if there are any

  Returns: dataset_info, or the estimate of a dry run.
  """
  if not 0 < rate_hz <= frame_rate or size < 1 or audio_hz < 1 or limit < 0:
    raise errors.UserError(
      f"frame_rate={frame_rate}, rate_hz={rate_hz}, size={size}, audio_hz={audio_hz}, "
      f"limit={limit}: positive numbers are expected, rate_hz at most frame_rate."
    )
  data = tfds_files.DataSet(source, builder)
  plan = _plan(data, media_feature, label_feature, text_feature)
  rows = {}
  for split in data.splits:
    own = rows.setdefault(SPLITS.get(split, split), [])
    for place in data.places(split):
      if limit and len(own) >= limit:
        break
      key = f"{place.shard}:{place.number}"
      own.append({"key": key, "place": list(place), "number": len(own)})
  kind = data.features[plan["media"]].kind
  settings = {"dataset": f"tfds/{data.name}:{data.version}", "limit": limit, **plan}
  info = {"name": data.name, "licence": "see the source", "version": data.version}
  about = {"dir": str(data.dir), "plan": plan}
  if kind == "audio":
    rate = _rate(data.features[plan["media"]], audio_hz)
    settings |= {"audio_hz": audio_hz}
    info |= {"kind": "sounds", "classes": {"label": list(plan["classes"])}}
    encode = functools.partial(sound, **about, stored_hz=rate, audio_hz=audio_hz)
    columns, learned = sounds.COLUMNS, None
  else:
    settings |= {"rate_hz": rate_hz, "frame_rate": frame_rate, "size": size}
    settings |= {"jpeg_quality": quality}
    classes = {"shape": [], "colour": [], "action": list(plan["classes"])}
    info |= {"kind": "narrated_clips", "classes": classes}
    more = dict(classes=classes, rate_hz=rate_hz, frame_rate=frame_rate, size=size)
    encode = functools.partial(clip, **about, **more, quality=quality)
    columns, learned = narrated.COLUMNS, _words(data, plan, rows, vocab, vocab_file)
  if learned is not None:
    settings |= {"vocab": vocab, "vocab_digest": learned.digest}
    about = {"size": learned.spec.size, "digest": learned.digest}
    info["vocab"] = {"name": vocab, "file": "vocab.txt", **about}
  engine = {"processes": processes, "dry_run": dry_run, "quiet": quiet}
  told = dict(columns=columns, settings=settings, info=info, per_shard=PER_SHARD)
  rows = {split: own for split, own in rows.items() if own}
  written = shards.write(out, rows, encode, **told, **engine)
  if learned is not None and not dry_run:
    learned.save(pathlib.Path(out) / "vocab.txt")
  return written


def _plan(data, media_feature, label_feature, text_feature) -> dict:
  """Names of the features to read, and the classes; JSON-able."""
  pick = functools.partial(tfds_files.pick, data)
  shown = pick(media_feature, ("video", "audio", "image"), "media_feature")
  kind = data.features[shown].kind if shown else ""
  if kind not in ("video", "audio", "image"):
    names = ", ".join(f"{n} ({f.kind})" for n, f in data.features.items())
    raise errors.UserError(
      f"{data.name} has no video, audio or image to prepare; it has {names}. Name one "
      "with --media_feature."
    )
  label = pick(label_feature, ("label",), "label_feature")
  by_name = [
    name
    for wanted in CAPTIONS
    for name in data.of_kind("text")
    if wanted in name.split("/")
  ]
  texts = pick(text_feature, (), "text_feature") or next(iter(by_name), "")
  classes = data.features[label].names if label else ()
  key = next((k for k in KEYS if k in data.features), "")
  return {"media": shown, "label": label, "text": texts, "key": key} | {
    "classes": list(classes)
  }


def _rate(feature, audio_hz) -> int:
  """Sampling rate of the stored sound."""
  return int(feature.settings.get("sampleRate") or audio_hz)


def _texts(x, name) -> list[str]:
  """Sound texts of a record."""
  given = [
    v.decode("utf-8", "replace") for v in x.get(name, ()) if isinstance(v, bytes)
  ]
  return [t for t in map(narrated_reader.text_of, given) if t]


def _words(data, plan, rows, vocab, vocab_file):
  if vocab_file:
    return vocabularies.build({"name": vocab, "file": vocab_file})
  found = []
  for row in rows.get("train", ()) if plan["text"] else ():
    try:
      x = tfds_files.read(data.dir, tfds_files.Place(*row["place"]))
    except ValueError:
      continue  # it goes to quarantine when its shard is made
    found += _texts(x, plan["text"])
  return vocabularies.learn(vocab, found) if found else None


def _told(row, dir, plan) -> tuple[dict, str, int]:
  """(values of the record, its key, the number of its class or -1)."""
  x = tfds_files.read(dir, tfds_files.Place(*row["place"]))
  key, label = row["key"], -1
  own = x.get(plan["key"], ())
  if len(own):
    first = own[0]
    own = first.decode("utf-8", "replace") if isinstance(first, bytes) else first
    key = f"{key} {own}"
  given = x.get(plan["label"], ())
  if len(given) and not isinstance(given, list):
    label = int(given[0])
  if label >= len(plan["classes"]):
    raise ValueError(f"class {label} of {len(plan['classes'])}")
  return x, key, label


def clip(
  row: Mapping,
  *,
  dir: str,
  plan: Mapping,
  classes: Mapping[str, Sequence],
  rate_hz: float,
  frame_rate: float,
  size: int,
  quality: int,
) -> tuple[bytes, dict]:
  """(SequenceExample bytes of kind narrated_clips, index columns) of a record.

  Raises: ValueError for a damaged one.
  """
  x, key, label = _told(row, dir, plan)
  pictures = x.get(plan["media"], ())
  if not len(pictures) or not isinstance(pictures, list):
    raise ValueError(f"no pictures in {plan['media']}")
  num = len(pictures)
  kept = range(num)
  if num > 1:  # the frames shown at k / rate_hz
    count = max(1, int(np.ceil(num / frame_rate * rate_hz - 1e-6)))
    kept = [min(int(k / rate_hz * frame_rate + 1e-6), num - 1) for k in range(count)]
  frames, shape, target = [], (0, 0, 3), None
  for k in kept:
    pixels = image.decode(pictures[k])
    target = target or video.scaled(pixels.shape[1], pixels.shape[0], size)
    pixels = image.resize(pixels, *target)
    frames.append(image.encode_jpeg(pixels, quality=quality))
    shape = pixels.shape
  named = {"action": classes["action"][label]} if label >= 0 else {}
  given = {"captions": _texts(x, plan["text"])} | named
  context, lists, columns = narrated.told(given, classes)
  duration = num / frame_rate if num > 1 else 1 / rate_hz
  context |= {
    "key": key,
    "video/height": shape[0],
    "video/width": shape[1],
    "video/rate_hz": float(rate_hz),
    "duration_s": duration,
  }
  lists["video/frames"] = frames
  lists["video/times"] = [k / rate_hz for k in range(len(frames))]
  columns |= {"duration_s": duration, "num_frames": len(frames)}
  return records.encode(context, lists), columns


def _samples(values, stored_hz, audio_hz) -> np.ndarray:
  """[S] int16 at `audio_hz` of stored numbers, or of the bytes of a sound file."""
  if isinstance(values, list):
    pcm = sound_lib.samples(values[0], rate_hz=audio_hz) if values else None
    if pcm is None:
      raise ValueError("no sound")
    return pcm
  if values.dtype.kind == "f":
    values = np.clip(np.round(values * 32767.0), -32768, 32767)
  if not len(values) or np.abs(values).max() > 32768:
    raise ValueError(f"{len(values)} samples; numbers of 16 bits are expected")
  if stored_hz == audio_hz:
    return values.astype("<i2")
  out = io.BytesIO()
  with wave.open(out, "wb") as file:
    file.setnchannels(1)
    file.setsampwidth(2)
    file.setframerate(stored_hz)
    file.writeframes(values.astype("<i2").tobytes())
  return sound_lib.samples(out.getvalue(), rate_hz=audio_hz)


def sound(
  row: Mapping, *, dir: str, plan: Mapping, stored_hz: int, audio_hz: int
) -> tuple[bytes, dict]:
  """(SequenceExample bytes of kind sounds, index columns) of a record.

  Raises: ValueError for a damaged one.
  """
  x, key, label = _told(row, dir, plan)
  try:
    pcm = _samples(x.get(plan["media"], []), stored_hz, audio_hz)
  except media.MediaError as error:
    raise ValueError(f"{plan['media']}: {error}") from None
  captions = _texts(x, plan["text"])
  context = {
    "key": key,
    "audio/pcm": pcm.astype("<i2").tobytes(),
    "audio/rate_hz": float(audio_hz),
    "duration_s": len(pcm) / audio_hz,
    "label": label,
    "speaker": "",
    "fold": 0,
    "group": key,
  }
  columns = {"label": label, "fold": 0, "speaker": -1, "group": row["number"]}
  columns |= {"duration_s": len(pcm) / audio_hz, "num_captions": len(captions)}
  return records.encode(context, {"caption/text": captions}), columns
