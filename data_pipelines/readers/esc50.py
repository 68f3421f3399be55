"""ESC-50 (CC BY-NC) and ESC-10 (CC BY): environmental sounds of 5 s in five folds.

  meta/esc50.csv or meta.csv   filename, fold, target, category, esc10, src_file, take
  audio/<filename>

The folds are predefined; scores are means of training on four and testing on the
fifth. All rows are of split "all" with the index column `fold`: an input takes
where={"fold": [2, 3, 4, 5]}. Clips of one `src_file` are never in two folds.
"""

import pathlib

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad
from vlp_jax import errors

NAMES = ("meta/esc50.csv", "esc50.csv", "meta.csv")


def read(source, *, esc10: bool = False) -> list[ClipRow]:
  """Rows of the set, or of its ten classes under CC BY only.

  Raises: UserError if a recording is in two folds.
  """
  at = tables.first(source, *NAMES)
  rows, folds = [], {}
  needed = ("filename", "fold", "target", "category", "src_file")
  for line, row in tables.rows(at, needed):
    if isinstance(row, Exception):
      rows.append(bad(f"{at.name}:{line}", row, "all"))
      continue
    if esc10 and row.get("esc10", "").lower() != "true":
      continue
    name, source_file = row["filename"], row["src_file"]
    try:
      fold, target = int(row["fold"]), int(row["target"])
    except ValueError as error:
      rows.append(bad(name, error, "all"))
      continue
    if folds.setdefault(source_file, fold) != fold:
      raise errors.UserError(
        f"{at}: recording {source_file} is in folds {folds[source_file]} and {fold}."
      )
    labels = {"label": row["category"], "target": target, "fold": fold}
    rows.append(
      ClipRow(
        key=name,
        media=f"audio/{name}",
        also=(pathlib.PurePosixPath(name).stem,),
        split="all",
        labels=labels,
        group=source_file,
      )
    )
  return rows
