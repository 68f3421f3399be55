r"""LSMDC: clips of movies with audio descriptions (arXiv 1605.03705).

  LSMDC16_annos_{training,val}.csv, LSMDC16_challenge_1000_publictect.csv
    tab-separated, no header: clip \t start \t end \t start \t end \t sentence, times
    "HH.MM.SS.mmm" in the movie
  LSMDC16_multiple_choice_*.csv (`multiple_choice`): columns 5 to 9 the options, column
    10 the right one, counted from 1

Clips are cut already: `<movie>/<clip>.avi`, the movie being the clip's name without its
two times.
"""

import re

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import Choice, ClipRow, bad, tidy

FILES = ("LSMDC16_annos_*.csv", "LSMDC16_challenge*.csv")
_TIMES = re.compile(r"_\d\d\.\d\d\.\d\d\.\d+-\d\d\.\d\d\.\d\d\.\d+$")


def read(source, *, split: str = "") -> list[ClipRow]:
  """Rows of one file; the split is that of its name."""
  at = tables.first(source, *FILES)
  return [_row(*line, at, split or tables.split_of(at)) for line in _lines(at)]


def multiple_choice(source, *, split: str = "") -> list[ClipRow]:
  """Rows with one question of five options each."""
  at = tables.first(source, "LSMDC16_multiple_choice*.csv")
  rows = []
  for line, row in _lines(at):
    own = split or tables.split_of(at)
    try:
      options = tidy(row[5:10])
      answer = int(row[10]) - 1
      if len(options) != 5 or not 0 <= answer < 5:
        raise ValueError(f"answer {row[10]} of {len(options)} options")
      choice = Choice("", options, answer)
      rows.append(
        _clip(row[0], own)._replace(key=f"{row[0]}:{line}", choices=(choice,))
      )
    except (IndexError, ValueError) as error:
      rows.append(bad(f"{at.name}:{line}", error, own))
  return rows


def _lines(at):
  return tables.fields(at, delimiter="\t", quoted=False)


def _clip(name, split) -> ClipRow:
  movie = _TIMES.sub("", name)
  if not name or movie == name:
    raise ValueError(f"{name!r} is no name of a clip")
  return ClipRow(key=name, media=f"{movie}/{name}.avi", split=split, group=movie)


def _row(line, row, at, split) -> ClipRow:
  try:
    if len(row) < 6 or not row[5].strip() or any(f.strip() for f in row[6:]):
      raise ValueError(f"{len(row)} columns; a sentence is expected in the sixth, last")
    # A film may describe one clip twice.
    clip = _clip(row[0], split)
    return clip._replace(key=f"{row[0]}:{line}", captions=tidy([row[5]]))
  except ValueError as error:
    return bad(f"{at.name}:{line}", error, split)
