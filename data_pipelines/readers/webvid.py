"""WebVid: stock videos with one caption each (arXiv 2104.00650).

  results_{2M,10M}_{train,val}.csv   videoid, contentUrl, duration, page_dir, name

The video is `videos/<page_dir>/<videoid>.mp4`, the caption `name`, cut at 350
characters as in Frozen in Time. Rows with an empty field are counted as damaged.
"""

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad, tidy

CHARACTERS = 350


def read(source, *, split: str = "") -> list[ClipRow]:
  """Rows of one file; the split is that of its name."""
  at = tables.first(source, "results_*.csv", "metadata/results_*.csv", "*.csv")
  own, rows = split or tables.split_of(at), []
  for line, row in tables.rows(at, ("videoid", "page_dir", "name")):
    if isinstance(row, Exception):
      rows.append(bad(f"{at.name}:{line}", row, own))
      continue
    video, page, name = (row[k].strip() for k in ("videoid", "page_dir", "name"))
    if "nan" in (page, name):
      rows.append(bad(f"{at.name}:{line}", "an empty field", own))
      continue
    rows.append(
      ClipRow(
        key=video,
        media=f"{page}/{video}.mp4",
        also=(f"videos/{page}/{video}.mp4",),
        split=own,
        captions=tidy([name[:CHARACTERS]]),
        group=video,
      )
    )
  return rows
