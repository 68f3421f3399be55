"""A small text + regions data set that needs no file: random scenes in NLVR's manner.

The twin of COCO, Visual Genome and the like for runs without data: pictures of three
boxes with coloured shapes, regions with classes, attributes and soft labels from the
true objects, and generated statements, half of them true. Splits, columns and classes
are those of `nlvr.py`, without real sentences; texts and scenes of `test` are in no
training row.
"""

import zlib

import numpy as np

from data_pipelines.prepare import nlvr
from data_pipelines.synthetic import box_scenes
from vlp_jax import errors

SOURCE = "generated"


def prepare(
  source,
  out,
  *,
  num_pairs: int = 400,
  num_test: int = 100,
  num_scenes: int = 160,
  region_dim: int = 2048,
  seed: int = 0,
  noise: float = 0.05,
  vocab_size: int = 1024,
  cased: bool = False,
  vocab_file: str = "",
  processes: int = 1,
  dry_run: bool = False,
  quiet: bool = False,
) -> dict:
  """Prepares generated image-text pairs with regions; give --source generated.

    num_pairs    rows for training, num_test for testing; even numbers
    num_scenes   pictures for training; a quarter as many for testing
    region_dim   width of the region features
    seed         of scenes, statements and features
    noise        of the region features, 0 for none
    vocab_size   upper bound of the learned WordPiece vocabulary
    cased        whether that keeps capitals
    vocab_file   an existing vocab.txt instead of one learned from the training texts

  Returns: dataset_info, or the estimate of a dry run.
  """
  if str(source) != SOURCE:
    raise errors.UserError(f"source is {source}; nothing is read: give {SOURCE!r}.")
  if min(num_pairs, num_test) < 0 or num_pairs % 2 or num_test % 2 or num_scenes < 16:
    raise errors.UserError(
      f"num_pairs={num_pairs}, num_test={num_test}, num_scenes={num_scenes}: even "
      "numbers of pairs and at least 16 scenes are expected."
    )
  pictures = random_scenes(num_scenes, seed)
  rows = nlvr.generate(
    pictures,
    {"train": num_pairs, "test": num_test},
    seed=seed,
    avoid={"train": (), "test": ()},
  )
  splits = {split: nlvr.to_rows(split, r) for split, r in rows.items()}
  info = {
    "name": "scenes",
    "licence": "generated, no rights reserved",
    "majority": {"train": 0.5, "test": 0.5},
  }
  return nlvr.write(
    out,
    splits,
    rows,
    info=info,
    settings={"dataset": "scenes", "seed": seed, "num_scenes": num_scenes},
    region_dim=region_dim,
    noise=noise,
    vocab_size=vocab_size,
    cased=cased,
    vocab_file=vocab_file,
    engine={"processes": processes, "dry_run": dry_run, "quiet": quiet},
  )


def random_scenes(num: int, seed: int) -> dict[str, list[box_scenes.Scene]]:
  """ "train": `num` scenes, "test": a quarter as many that look like none of these."""
  rng = np.random.RandomState(zlib.crc32(f"{seed}/scenes".encode()))
  out, seen = {}, set()
  for split, size in (("train", num), ("test", num // 4)):
    out[split] = []
    while len(out[split]) < size:
      place = len(out[split])
      family = box_scenes.FAMILIES[place % 2]
      scene = box_scenes.random_scene(rng, f"{split}-{place:05d}", family)
      if scene.contents not in seen:
        seen.add(scene.contents)
        out[split].append(scene)
  return out
