"""Small generated stand-ins for data sets, made on first use: `dir="synthetic/NAME"`.

A config's `:runlocal` form reads one instead of its real data, so that it runs anywhere
in seconds. They are kept under VLP_JAX_CACHE (default ~/.cache/vlp_jax).
"""

import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable

from data_pipelines import vocabularies
from data_pipelines.prepare import clip_features, narrated, scenes, sounds
from data_pipelines.readers import clip_row, feature_files, speech
from data_pipelines.synthetic import (
  box_tasks,
  corpus,
  pixel_features,
  segments,
  spoken,
  steps,
)
from vlp_jax.errors import UserError
from vlp_jax.resolve import nearest

PREFIX = "synthetic/"
VERSION = 2  # raised when a twin changes


def _narrated(out: pathlib.Path) -> None:
  """Narrated clips: 32 for training, 12 held out, 64 pixels, with sound."""
  with tempfile.TemporaryDirectory() as clips:
    sizes = dict(num_clips=32, num_val=4, num_test=12, num_long=0)
    corpus.generate(clips, **sizes, seed=0, processes=1)
    narrated.prepare(clips, out, quiet=True)


def _scenes(out: pathlib.Path) -> None:
  """Statements about generated scenes with regions."""
  scenes.prepare(scenes.SOURCE, out, num_pairs=256, region_dim=16, quiet=True)


def _clip_features(out: pathlib.Path) -> None:
  """Features of generated clips, made of their pixels: 24 for training, 8 held out."""
  with tempfile.TemporaryDirectory() as clips:
    sizes = dict(num_clips=24, num_val=0, num_test=8, num_long=0)
    corpus.generate(clips, **sizes, seed=0, processes=1, audio=False)
    at = pathlib.Path(clips) / "features"
    rows = [
      clip_row.ClipRow(
        key=row["clip_id"],
        media=row["clip_id"],
        split=row["split"],
        captions=tuple(row["captions"]),
        said=tuple(
          clip_row.Said(n["text"], n["start"], n["end"]) for n in row["narrations"]
        ),
        group=row["clip_id"],
      )
      for row in pixel_features.write(clips, at)
    ]
    folders = [
      feature_files.Folder(at / name, rate)
      for name, rate in pixel_features.RATES.items()
    ]
    settings = dict(dataset="clip_features/synthetic")
    clip_features.write(
      rows, folders, out, name="synthetic", settings=settings, quiet=True
    )


def _spoken(out: pathlib.Path) -> None:
  """180 "spoken" digits of six voices, 8 kHz, with the words' vocabulary."""
  with tempfile.TemporaryDirectory() as sounds_of:
    spoken.write(sounds_of)
    given = dict(format="speech", options="split=all", audio_hz=spoken.RATE_HZ)
    sounds.prepare(sounds_of, out, **given, quiet=True)
  vocabularies.learn("words", speech.DIGITS).save(out / "vocab.txt")


TWINS: dict[str, Callable[[pathlib.Path], None]] = {
  "clip_features": _clip_features,
  "coin": steps.coin,
  "narrated": _narrated,
  "nlvr2": box_tasks.statements,
  "scenes": _scenes,
  "segments": segments.segments,
  "spoken": _spoken,
  "steps": steps.steps,
  "text": segments.text,
  "vqa": box_tasks.vqa,
}


def name_of(path: str) -> str:
  """The twin that a path "synthetic/NAME[/FILE]" is of.

  Raises: UserError for an unknown name.
  """
  name = path.removeprefix(PREFIX).split("/")[0]
  if name not in TWINS:
    raise UserError(f"{path}: no such twin.{nearest(name, TWINS)}")
  return name


def place(path: str) -> str:
  """Where "synthetic/NAME[/FILE]" lies on disk; the twin is made if it is missing."""
  name = name_of(path)
  cache = pathlib.Path(os.environ.get("VLP_JAX_CACHE", "~/.cache/vlp_jax")).expanduser()
  at = cache / f"{name}-{VERSION}"
  if not (at / "dataset_info.json").exists():
    cache.mkdir(parents=True, exist_ok=True)
    made = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
    TWINS[name](made)
    try:
      made.rename(at)
    except OSError:  # another process was faster, its twin is the same
      shutil.rmtree(made)
  return str(at) + path.removeprefix(PREFIX + name)
