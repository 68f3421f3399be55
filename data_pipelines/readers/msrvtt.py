"""MSR-VTT: 10,000 video clips with 20 sentences each (Xu et al., CVPR 2016).

  MSRVTT_data.json, videodatainfo_2017.json (one or several)  {"videos": [{video_id,
      category, split, "start time", "end time", ...}], "sentences": [{video_id, sen_id,
      caption}]}; or MSR_VTT.json with "annotations": [{image_id, caption}] and `split`
      nowhere
  MSRVTT_JSFUSION_test.csv                   key, vid_key, video_id, sentence (1k-A)
  MSRVTT_train.7k.csv, MSRVTT_train.9k.csv   video_id; may be missing
  *mc*.jsonl (`multiple_choice`)             {clip_name or video_id, options [5],
                                             answer from 0}, 2,990 lines

Videos are `<video_id>.mp4`, already cut: the times in the json are of the originals.
Splits: "9k" trains on all but the 1,000 clips of 1k-A, "7k" on the official train and
validate (7,010), both test on 1k-A with its one sentence a clip; "full" is the
official 6,513 / 497 / 2,990 with all sentences. With "9k" the list of 1k-A alone, or
given as the source, is the split test: zero-shot evaluation needs no more.
"""

import pathlib

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import Choice, ClipRow, bad, tidy
from vlp_jax import errors

FILES = ("MSRVTT_data.json", "MSR_VTT.json", "*videodatainfo*.json")
TEST = "MSRVTT_JSFUSION_test.csv"
PROTOCOLS = ("9k", "7k", "full")
_NAMES = {"train": "train", "validate": "val", "val": "val", "test": "test"}


def read(source, *, train: str = "9k") -> list[ClipRow]:
  """Rows of train (and val) and test; `train` is one of 9k, 7k, full.

  Raises: UserError if a clip is in two splits, lists and json do not agree, or a line
    of a list is damaged: with a clip less it would be another protocol.
  """
  if train not in PROTOCOLS:
    raise errors.UserError(f"train={train!r}; known: {', '.join(PROTOCOLS)}.")
  source = pathlib.Path(source)
  folder = source.parent if source.is_file() else source
  listed = source if source.suffix == ".csv" else folder / TEST
  files = _files(source)
  if not files and (train != "9k" or not listed.is_file()):
    raise errors.UserError(f"{source} has none of {', '.join((*FILES, TEST))}.")
  videos, captions = _json(files)
  if train == "full":
    parts = {}
    for video, about in videos.items():
      split = _NAMES.get(about.get("split"))
      if split is None:
        raise errors.UserError(
          f"{source}: {video} has split {about.get('split')!r}; train='full' needs the "
          "official json with train, validate or test."
        )
      parts.setdefault(split, []).append(video)
  else:
    sentence = _sentences(listed)
    own = _training(folder, videos, captions, train, sentence) if files else []
    parts, captions = {"train": own, "test": list(sentence)}, captions | sentence
  return [
    _row(video, split, videos.get(video, {}), captions.get(video, ()))
    for split in ("train", "val", "test")
    for video in parts.get(split, ())
  ]


def multiple_choice(source, *, split: str = "test") -> list[ClipRow]:
  """Rows with one question each: which of the captions is the clip's."""
  at, rows = tables.first(source, "*mc*.jsonl", "*.jsonl"), []
  for line, row in tables.lines(at):
    try:
      if isinstance(row, Exception):
        raise row
      video = row.get("clip_name") or row["video_id"]
      options, answer = tidy(row["options"]), int(row["answer"])
      if not 0 <= answer < len(options):
        raise ValueError(f"answer {answer} of {len(options)} options")
      asked = (Choice("", options, answer),)
      given = dict(media=video, split=split, choices=asked, group=video)
      rows.append(ClipRow(key=f"{video}:{line}", **given))
    except tables.WRONG as error:
      rows.append(bad(f"{at.name}:{line}", error, split))
  return rows


def _files(source) -> list[pathlib.Path]:
  """The json files that the source is or has; none for a list of clips."""
  if source.is_file():
    return [] if source.suffix == ".csv" else [source]
  return next(filter(None, (sorted(source.glob(name)) for name in FILES)), [])


def _json(files) -> tuple[dict, dict]:
  videos, captions = {}, {}
  for file in files:
    given = tables.value(file)
    try:
      for v in given.get("videos", ()):
        videos[v["video_id"]] = v
      for s in given.get("sentences", ()) or given["annotations"]:
        name = s["video_id"] if "video_id" in s else s["image_id"]
        captions.setdefault(name, []).append(s["caption"])
    except tables.WRONG as error:
      raise errors.UserError(
        f"{file} is no MSR-VTT json: {type(error).__name__} {error}."
      ) from None
  for video in captions:
    videos.setdefault(video, {})
  return videos, captions


def _sentences(at) -> dict[str, tuple[str]]:
  """Test video -> its sentence, of 1k-A."""
  if not at.is_file():
    raise errors.UserError(
      f"{at} is missing; it lists the 1,000 test clips of 1k-A. Or options=train=full."
    )
  test = {}
  for row in tables.sound(at, ("video_id", "sentence")):
    if row["video_id"] in test:
      raise errors.UserError(f"{at} lists {row['video_id']} twice.")
    test[row["video_id"]] = (row["sentence"],)
  if not test:
    raise errors.UserError(f"{at} lists no clips.")
  return test


def _training(folder, videos, captions, train, test) -> list[str]:
  """Training videos of 1k-A, whose test videos are `test`."""
  listed = folder / f"MSRVTT_train.{train}.csv"
  if listed.is_file():
    own = [row["video_id"] for row in tables.sound(listed, ("video_id",))]
  elif train == "9k":
    own = [v for v in videos if v not in test]
  else:
    own = [
      v for v, about in videos.items() if about.get("split") in ("train", "validate")
    ]
  shared = set(own) & set(test)
  if shared:
    raise errors.UserError(
      f"{folder}: {len(shared)} clips are in both the {train} training list and the "
      f"test list of 1k-A, e.g. {min(shared)}."
    )
  silent = [v for v in own if v not in captions]
  if silent:
    raise errors.UserError(
      f"{folder}: {len(silent)} of {len(own)} training clips have no sentence in the "
      f"json, e.g. {silent[0]}. Put all parts of the json there."
    )
  return own


def _row(video, split, about, captions) -> ClipRow:
  category = about.get("category")
  return ClipRow(
    key=video,
    media=video,
    split=split,
    captions=tidy(captions),
    labels={} if category is None else {"category": str(category)},
    group=video,
  )
