"""Speech: spoken digits, single words, read sentences, folders of speakers.

read         FSDD: <digit>_<speaker>_<take>.wav in a directory or a zip file; takes 0
             to 4 are the test set, or one speaker is held out, or nothing is split
             (CC BY-SA 4.0)
commands     Speech Commands: <word>/<speaker>_nohash_<n>.wav, testing_list.txt,
             validation_list.txt; _background_noise_ is left out (CC BY 4.0)
librispeech  <split>/<speaker>/<chapter>/<speaker>-<chapter>-<n>.flac and
             <speaker>-<chapter>.trans.txt (CC BY 4.0)
speakers     <speaker>/.../<file>, the class being the speaker (VoxCeleb)
"""

import pathlib
import re

from data_pipelines.readers import archives, locate, tables
from data_pipelines.readers.clip_row import ClipRow
from vlp_jax import errors

DIGITS = ("zero", "one", "two", "three", "four")
DIGITS += ("five", "six", "seven", "eight", "nine")
TEST_TAKES = 5
_FSDD = re.compile(r"(\d)_(\w+?)_(\d+)\.wav$")


def read(source, *, hold_out: str = "", split: str = "") -> list[ClipRow]:
  """Rows of FSDD; `hold_out` is the speaker of the test set, if not the takes 0 to 4.

  `split` names one split of all rows, where who reads them leaves speakers out itself.
  A `member` is given for a zip file, whose directory is then that of the media.
  """
  source = pathlib.Path(source)
  zips = [source] if source.is_file() else sorted(source.glob("*.zip"))
  if zips:
    places = [(z.name, name) for z in zips for name in archives.members(z)]
  else:
    places = [
      (p.relative_to(source).as_posix(), "") for p in sorted(source.rglob("*.wav"))
    ]
  rows = []
  for media, member in places:
    name = pathlib.PurePosixPath(member or media).name
    match = _FSDD.match(name)
    if match is None:
      continue
    digit, speaker, take = int(match[1]), match[2], int(match[3])
    tested = speaker == hold_out if hold_out else take < TEST_TAKES
    rows.append(
      ClipRow(
        key=name,
        media=media,
        member=member,
        split=split or ("test" if tested else "train"),
        captions=(DIGITS[digit],),
        labels={"label": DIGITS[digit], "target": digit, "speaker": speaker},
        group=speaker,
      )
    )
  if hold_out and split:
    raise errors.UserError(f"hold_out={hold_out!r} or split={split!r}, not both.")
  if hold_out and not any(r.split == "test" for r in rows):
    found = sorted({r.labels["speaker"] for r in rows})
    raise errors.UserError(f"hold_out={hold_out!r} is none of {', '.join(found)}.")
  return rows


def commands(source) -> list[ClipRow]:
  """Rows of Speech Commands; a speaker is in one split only."""
  source = pathlib.Path(source)
  listed = {}
  for split, name in (("val", "validation_list.txt"), ("test", "testing_list.txt")):
    for line in tables.read(source / name).splitlines():
      listed[line.strip()] = split
  rows = []
  for at in sorted(source.glob("*/*.wav")):
    word, path = at.parent.name, at.relative_to(source).as_posix()
    if word[0] == "_":
      continue
    speaker = at.stem.partition("_nohash_")[0]
    rows.append(
      ClipRow(
        key=path,
        media=path,
        split=listed.get(path, "train"),
        captions=(word,),
        labels={"label": word, "speaker": speaker},
        group=speaker,
      )
    )
  return rows


def librispeech(source) -> list[ClipRow]:
  """Rows of LibriSpeech, the texts in lower case; splits as the directories say."""
  source, rows = pathlib.Path(source), []
  for at in sorted(source.rglob("*.trans.txt")):
    speaker, _, _ = at.name.partition("-")
    folder = at.parent.relative_to(source)
    split = folder.parts[-3] if len(folder.parts) > 2 else "train"
    for line in tables.read(at).splitlines():
      name, _, text = line.strip().partition(" ")
      if name:
        rows.append(
          ClipRow(
            key=name,
            media=(folder / f"{name}.flac").as_posix(),
            split=split,
            captions=(text.lower(),),
            labels={"speaker": speaker},
            group=speaker,
          )
        )
  return rows


def speakers(source) -> list[ClipRow]:
  """Rows of a directory with one folder of recordings for each speaker."""
  source, rows = pathlib.Path(source), []
  for at in sorted(source.rglob("*")):
    path = at.relative_to(source)
    if len(path.parts) > 1 and at.suffix.lower() in locate.SOUND:
      speaker = path.parts[0]
      labels = {"label": speaker, "speaker": speaker}
      rows.append(
        ClipRow(
          key=path.as_posix(), media=path.as_posix(), labels=labels, group=speaker
        )
      )
  return rows
