"""DiDeMo: moments of Flickr videos in segments of 5 s (arXiv 1708.01641; BSD-2).

  <split>_data.json   [{annotation_id, description, video, num_segments, times: [[first,
                      last], ...] of each annotator, inclusive}]

With unit=moment (default) a row is a description, its clip the segments that most of
the annotators chose (the first named among equals); with unit=video the first 30 s of a
video with its moments, by all annotators; with unit=paragraph these 30 s with all
descriptions joined, as paragraph retrieval has it. All choices are in
labels["times"].
"""

import collections

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, Moment, Said, bad, tidy
from vlp_jax import errors

SEGMENT_S = 5.0
WHOLE_S = 30.0
UNITS = ("moment", "video", "paragraph")


def read(source, *, unit: str = "moment") -> list[ClipRow]:
  """Rows of one file, or of the first `*data*.json` of a directory."""
  if unit not in UNITS:
    raise errors.UserError(f"unit={unit!r}; known: {', '.join(UNITS)}.")
  at = tables.first(source, "*data*.json")
  given, split = tables.value(at), tables.split_of(at)
  if not isinstance(given, list):
    raise errors.UserError(f"{at} is no list of moments.")
  rows = [_row(row, f"{at.name}:{k}", split) for k, row in enumerate(given)]
  return rows if unit == "moment" else _videos(rows, unit)


def _row(row, place, split) -> ClipRow:
  try:
    times = [(int(a), int(b)) for a, b in row["times"]]
    if any(not 0 <= a <= b < WHOLE_S / SEGMENT_S for a, b in times):
      raise ValueError(f"segments {times}")
    if not all(isinstance(row[k], str) for k in ("video", "description")):
      raise TypeError("video or description is no text")
    first, last = collections.Counter(times).most_common(1)[0][0]
    if not 0 <= first <= last < int(row["num_segments"]):
      raise ValueError(f"segments {first} to {last} of {row['num_segments']}")
    return ClipRow(
      key=str(row["annotation_id"]),
      media=row["video"],
      split=split,
      start=first * SEGMENT_S,
      end=(last + 1) * SEGMENT_S,
      captions=tidy([row["description"]]),
      labels={"times": [n for pair in times for n in pair]},
      group=row["video"],
    )
  except tables.WRONG as error:
    return bad(place, error, split)


def _moment(row) -> Moment:
  times = row.labels["times"]
  pairs = zip(times[::2], times[1::2], strict=True)
  spans = tuple((a * SEGMENT_S, (b + 1) * SEGMENT_S) for a, b in pairs)
  return Moment(row.captions[0], spans)


def _videos(rows, unit) -> list[ClipRow]:
  moments, out = {}, []
  for row in rows:
    if row.error:
      out.append(row)
    else:
      moments.setdefault(row.media, []).append(row)
  for video, own in moments.items():
    said = tuple(Said(r.captions[0], r.start, r.end) for r in own)
    texts = tuple(r.captions[0] for r in own)
    # The last segment may be short or missing: the file's end cuts it.
    whole = ClipRow(
      key=video,
      media=video,
      split=own[0].split,
      end=WHOLE_S,
      said=said,
      group=video,
      moments=tuple(map(_moment, own)),
    )
    paragraph = unit == "paragraph"
    out.append(whole._replace(captions=(" ".join(texts),)) if paragraph else whole)
  return out
