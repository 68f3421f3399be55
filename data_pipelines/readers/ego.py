"""First-person video: EgoClip, EgoMCQ and the retrieval set of EPIC-KITCHENS-100.

  read    egoclip.csv (tab-separated): clip_idx, video_uid, video_dur, narration_source,
          narration_ind, narration_time, clip_start, clip_end, clip_text, tag_verb,
          tag_noun; tags are Python lists of numbers (arXiv 2206.01670)
  mcq     egomcq.json: {question: {answer, types, query: row, choices: {"0": row, ...}}}
  epic    EPIC_100_retrieval_{train,test}.csv: narration_id, participant_id, video_id,
          start_timestamp, stop_timestamp, narration, verb_class, all_noun_classes, ...

EgoClip's videos are cut into chunks of 600 s, `<video_uid>/<k>.mp4`. A clip that runs
over the end of its chunk ends there; with chunk_s=0 videos are whole,
`<video_uid>.mp4`.
"""

import ast
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad, span, tidy
from vlp_jax import errors

CHUNK_S = 600.0
ALPHA_S = 4.9  # mean of the gaps of all videos of EgoClip
_COLUMNS = ("video_uid", "clip_start", "clip_end", "clip_text")


class Question(NamedTuple):
  """Five clips (their keys) for one text; `intra` if all are of one video.

  The numbers of `types` are labelled the wrong way round in the published metric, so
  the videos decide.
  """

  key: str
  text: str
  choices: tuple[str, ...]
  answer: int
  intra: bool


def numbers(text: str) -> list[int]:
  """The list of numbers that a literal says; it is parsed, never run.

  Raises: ValueError for anything else.
  """
  text = text.strip()
  if not text or len(text) > 10_000:
    raise ValueError(f"{len(text)} characters are no list of numbers")
  try:
    found = ast.literal_eval(text)
  except (SyntaxError, ValueError, MemoryError, RecursionError):
    raise ValueError(f"{text[:40]!r} is no list of numbers") from None
  found = [found] if isinstance(found, int) else found
  if not isinstance(found, list | tuple) or not all(type(n) is int for n in found):
    raise ValueError(f"{text[:40]!r} is no list of numbers")
  return list(found)


def bounds(times: Sequence[float], alpha: float = ALPHA_S) -> list[tuple[float, float]]:
  """(start, end) in s of the clips of one video's narrations.

  t_k -+ beta / (2 alpha) with beta the mean gap of the video. Source: EgoVLP, sec. 3.2.
  """
  if len(times) < 2:
    raise ValueError("one narration has no gap to the next")
  half = float(np.diff(np.sort(times)).mean()) / (2 * alpha)
  return [(max(0.0, t - half), t + half) for t in times]


def _chunk(video, start, end, chunk_s):
  if not chunk_s:
    return video, start, end
  k = int(start // chunk_s)
  return f"{video}/{k}", start - k * chunk_s, min(end - k * chunk_s, chunk_s)


def _row(key, row, split, chunk_s) -> ClipRow:
  start, end = span(row["clip_start"], row["clip_end"])
  video = str(row["video_uid"])
  place, start, end = _chunk(video, start, end, chunk_s)
  tags = {k: row.get(f"tag_{k}") for k in ("verb", "noun")}
  return ClipRow(
    key=key,
    media=f"{place}.mp4",
    split=split,
    start=start,
    end=end,
    captions=tidy([row["clip_text"]]),
    labels={
      k: numbers(v) if isinstance(v, str) else list(v) for k, v in tags.items() if v
    },
    group=video,
  )


def read(source, *, chunk_s: float = CHUNK_S, split: str = "train") -> list[ClipRow]:
  """Rows of EgoClip."""
  at = tables.first(source, "egoclip*.csv", "*.csv")
  rows = []
  for line, row in tables.rows(at, _COLUMNS, delimiter="\t"):
    key = f"{at.name}:{line}"
    try:
      if isinstance(row, Exception):
        raise row
      key = row.get("clip_idx") or str(line)
      rows.append(_row(key, row, split, chunk_s))
    except tables.WRONG as error:
      rows.append(bad(key, error, split))
  return rows


def mcq(source, *, chunk_s: float = CHUNK_S) -> list[ClipRow]:
  """The clips of EgoMCQ, each once; `questions` has what is asked of them."""
  return list(_mcq(source, chunk_s)[0].values())


def questions(source) -> list[Question]:
  """The questions of EgoMCQ; choices are keys of the rows of `mcq`."""
  return _mcq(source, CHUNK_S)[1]


def _mcq(source, chunk_s):
  at = tables.first(source, "egomcq*.json")
  clips, asked = {}, []
  try:
    for name, q in tables.value(at).items():
      keys, videos = [], set()
      for k in sorted(q["choices"], key=int):
        row = q["choices"][k]
        key = f"{row['video_uid']}_{row['clip_start']}_{row['clip_end']}"
        clips.setdefault(key, _row(key, row, "test", chunk_s))
        keys.append(key)
        videos.add(row["video_uid"])
      answer, text = int(q["answer"]), q["query"]["clip_text"]
      if not 0 <= answer < len(keys):
        raise ValueError(f"question {name}: answer {answer} of {len(keys)}")
      asked.append(Question(name, text, tuple(keys), answer, len(videos) == 1))
  except tables.WRONG as error:
    raise errors.UserError(
      f"{at} is no EgoMCQ json: {type(error).__name__} {error}."
    ) from None
  return clips, asked


def epic(source) -> list[ClipRow]:
  """Rows of the multi-instance retrieval of EPIC-KITCHENS-100."""
  at = tables.first(source, "EPIC_100_retrieval_test.csv", "EPIC_100_retrieval*.csv")
  needed = ("narration_id", "video_id", "start_timestamp", "stop_timestamp")
  needed += ("narration", "verb_class", "all_noun_classes")
  rows, split = [], tables.split_of(at)
  for line, row in tables.rows(at, needed):
    key = f"{at.name}:{line}"
    try:
      if isinstance(row, Exception):
        raise row
      key = row["narration_id"]
      start, end = span(row["start_timestamp"], row["stop_timestamp"])
      video, person = row["video_id"], row.get("participant_id", "")
      labels = {
        "verb": numbers(row["verb_class"]),
        "noun": numbers(row["all_noun_classes"]),
      }
      rows.append(
        ClipRow(
          key=key,
          media=video,
          also=(f"{person}/{video}", f"{person}/videos/{video}"),
          split=split,
          start=start,
          end=end,
          captions=tidy([row["narration"]]),
          labels=labels,
          group=video,
        )
      )
    except tables.WRONG as error:
      rows.append(bad(key, error, split))
  return rows


def relevancy(clips: Sequence[ClipRow], texts: Sequence[ClipRow]) -> np.ndarray:
  """[clips, texts] float32 in 0..1: mean of the overlaps of verbs and of nouns.

    R_ij = (|V_i & V_j| / |V_i | V_j| + |N_i & N_j| / |N_i | N_j|) / 2

  Source: the caption relevancy of JPoSE (arXiv 1908.03477), from class numbers.
  """
  out = np.zeros((len(clips), len(texts)), np.float32)
  for name in ("verb", "noun"):
    size = 1 + max(n for r in (*clips, *texts) for n in r.labels[name])
    hot = []
    for rows in (clips, texts):
      x = np.zeros((len(rows), size), np.float32)
      for k, row in enumerate(rows):
        x[k, row.labels[name]] = 1
      hot.append(x)
    both = hot[0] @ hot[1].T
    out += both / (hot[0].sum(1)[:, None] + hot[1].sum(1) - both) / 2
  return out
