"""Action classification: HMDB51, UCF101, Kinetics.

  hmdb51    hmdb51.csv: video_id, label ("<class>_test"), split1, split2, split3 with 1
            train, 2 test, 0 unused; or the official <class>_test_split<k>.txt
  ucf101    classInd.txt, trainlist0<k>.txt, testlist0<k>.txt
  kinetics  csv: label, youtube_id, time_start, time_end, split; files
            <youtube_id>_<start>_<end>.mp4 with six digits, cut already

`split_number` chooses one of the three official splits. Clips of one group (the g of
UCF101's names) are of one source and never parted by the official splits.
"""

import pathlib
import re

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad
from vlp_jax import errors

_UNUSED = "unused"
_HMDB = {"1": "train", "2": "test", "0": _UNUSED}
_KINETICS = {"validate": "val", "validation": "val"}


def read(source, *, split_number: int = 1) -> list[ClipRow]:
  """Rows of HMDB51 or UCF101, whichever the source holds; of a csv file, its own."""
  source = pathlib.Path(source)
  if source.is_file():
    header = tables.read(source)[:2000].splitlines()[:1]
    youtube = bool(header) and "youtube_id" in header[0]
    return kinetics(source) if youtube else hmdb51(source, split_number=split_number)
  if (source / "classInd.txt").is_file():
    return ucf101(source, split_number=split_number)
  return hmdb51(source, split_number=split_number)


def _number(split_number) -> int:
  if split_number not in (1, 2, 3):
    raise errors.UserError(f"split_number={split_number}; there are 1, 2 and 3.")
  return split_number


def hmdb51(source, *, split_number: int = 1) -> list[ClipRow]:
  """Rows of train and test; what a split leaves out is left out."""
  source, k, rows = pathlib.Path(source), _number(split_number), []
  lists = sorted(source.glob(f"*_test_split{k}.txt")) if source.is_dir() else []
  if lists:
    given = [
      (line.split()[0], at.name.removesuffix(f"_test_split{k}.txt"), line.split()[-1])
      for at in lists
      for line in tables.read(at).splitlines()
      if line.strip()
    ]
  else:
    at = tables.first(source, "hmdb51*.csv")
    given = []
    for line, row in tables.rows(at, ("video_id", "label", f"split{k}")):
      if isinstance(row, Exception):
        rows.append(bad(f"{at.name}:{line}", row))
        continue
      name = row["label"].removesuffix("_test")
      given.append((row["video_id"], name, row[f"split{k}"]))
  for video, name, value in given:
    split = _HMDB.get(value.strip())
    if split is None:
      rows.append(bad(video, f"split{k} is {value!r}; expected 0, 1 or 2"))
    elif split != _UNUSED:
      rows.append(_row(video, f"{name}/{video}", name, split))
  return rows


def _row(key, media, name, split, group="") -> ClipRow:
  return ClipRow(
    key=key, media=media, split=split, labels={"action": name}, group=group or key
  )


def ucf101(source, *, split_number: int = 1) -> list[ClipRow]:
  """Rows of train and test.

  Raises: UserError for a class that classInd.txt does not know.
  """
  source, k = pathlib.Path(source), _number(split_number)
  lines = tables.read(source / "classInd.txt").splitlines()
  names = {line.split()[-1] for line in lines if line.strip()}
  rows = []
  for split in ("train", "test"):
    at = source / f"{split}list{k:02d}.txt"
    for line in tables.read(at).splitlines():
      if not line.strip():
        continue
      path = line.split()[0]  # training lists add the class number
      name, _, file = path.partition("/")
      if name not in names:
        raise errors.UserError(f"{at}: class {name!r} is not in classInd.txt.")
      group = re.sub(r"_c\d+$", "", pathlib.PurePosixPath(file).stem)
      rows.append(_row(pathlib.PurePosixPath(file).stem, path, name, split, group))
  return rows


def kinetics(source, *, split: str = "") -> list[ClipRow]:
  """Rows of a Kinetics csv; the label may be missing in test files."""
  at = tables.first(source, "*.csv")
  rows = []
  for line, row in tables.rows(at, ("youtube_id", "time_start", "time_end")):
    own = split or tables.split_of(at)
    try:
      if isinstance(row, Exception):
        raise row
      own = split or row.get("split") or own
      own = _KINETICS.get(own, own)
      start, end = int(float(row["time_start"])), int(float(row["time_end"]))
    except (OverflowError, ValueError) as error:
      rows.append(bad(f"{at.name}:{line}", error, own))
      continue
    name, label = row["youtube_id"], row.get("label") or ""
    file = f"{name}_{start:06d}_{end:06d}"
    rows.append(
      ClipRow(
        key=file,
        media=f"{label}/{file}.mp4",
        also=(file, name),
        split=own,
        labels={"action": label} if label else {},
        group=name,
      )
    )
  return rows
