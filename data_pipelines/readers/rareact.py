"""RareAct: unusual interactions such as "blend a phone" (arXiv 2008.01018).

  rareact.csv   id, video_id, start, end (s), class_id, verb, noun, annotation: 1 right,
                0 wrong, 2 only the verb, 3 only the noun, 4 both but not together

A row is a rated segment, its class "verb noun", its rating in labels["rating"], its
video in labels["video"]; videos are `<video_id>.<ending>`. All rows are of the split
test.
"""

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad, span
from vlp_jax import errors

COLUMNS = ("id", "video_id", "start", "end", "verb", "noun", "annotation")


def read(source) -> list[ClipRow]:
  """Rows of rareact.csv, or of the file given."""
  at, rows = tables.first(source, "rareact*.csv"), []
  for line, row in tables.rows(at, COLUMNS):
    try:
      if isinstance(row, Exception):
        raise row
      start, end = span(row["start"], row["end"])
      if row["annotation"] not in tuple("01234"):
        raise ValueError(f"annotation {row['annotation']!r}")
      name = f"{row['verb'].strip()} {row['noun'].strip()}"
      rows.append(
        ClipRow(
          key=row["id"],
          media=row["video_id"],
          split="test",
          start=start,
          end=end,
          captions=(name,),
          labels={
            "action": name,
            "rating": row["annotation"],
            "video": row["video_id"],
          },
          group=row["video_id"],
        )
      )
    except ValueError as error:
      rows.append(bad(f"{at.name}:{line}", error, "test"))
  if not rows:
    raise errors.UserError(f"{at} has no rows.")
  return rows
