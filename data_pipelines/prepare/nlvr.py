"""NLVR as text + regions: real sentences, and many generated ones about its scenes.

The source is a directory with `nlvr_dev.jsonl` (`data_pipelines/readers/nlvr.py`).
Regions come from the true objects (`readers/true_regions.py`), statements from
`synthetic/statements.py`. Three splits:

  train      the real sentences of four folds of sentence groups with their labels, and
             `num_statements` generated rows about the scenes of these folds
  test       `num_test` generated rows: texts that are in no training row, said of
             scenes that are in no training row
  test_real  the real sentences of the held-out fold with their labels

Generated rows come in pairs, one sentence true of one scene and false of another, so
text alone judges half of them right. Real ones do not: see `majority` of the info.
"""

import functools
import pathlib
import zlib
from collections.abc import Sequence

from data_pipelines import vocabularies
from data_pipelines.prepare import shards
from data_pipelines.readers import nlvr, true_regions
from data_pipelines.synthetic import statements
from data_pipelines.synthetic.box_scenes import Scene
from vlp_jax import errors

KIND = "regions"
PER_SHARD = 2048


def prepare(
  source,
  out,
  *,
  num_statements: int = 50_000,
  num_test: int = 4_000,
  region_dim: int = 2048,
  fold: int = 0,
  seed: int = 0,
  noise: float = 0.05,
  vocab_size: int = 1024,
  cased: bool = False,
  vocab_file: str = "",
  processes: int = 1,
  dry_run: bool = False,
  quiet: bool = False,
) -> dict:
  """Prepares NLVR as text + regions, real and generated sentences.

    num_statements  generated rows for training, num_test for testing; even numbers
    region_dim      width of the region features; a row takes about 19 kB of them for
                    each 1000, so 50,000 statements are 2 GB at 2048 and 0.3 GB at 256
    fold            of sentence groups that is held out, 0 to 4
    seed            of statements and features
    noise           of the region features, 0 for none
    vocab_size      upper bound of the learned WordPiece vocabulary
    cased           whether that keeps capitals
    vocab_file      an existing vocab.txt instead of one learned from the training texts

  Returns: dataset_info, or the estimate of a dry run.
  """
  if min(num_statements, num_test) < 0 or num_statements % 2 or num_test % 2:
    raise errors.UserError(
      f"num_statements={num_statements}, num_test={num_test}: statements come in "
      "pairs, one true and one false; give even numbers."
    )
  examples = nlvr.read(source)
  train, test = nlvr.split(examples, fold)
  if not train or not test:
    raise errors.UserError(
      f"{source}: fold {fold} leaves {len(train)} sentences for training and "
      f"{len(test)} for testing; both are needed."
    )
  known = {statements.normal(e.sentence) for e in train}
  hidden = {statements.normal(e.sentence) for e in test}
  rows = generate(
    {"train": scenes(train), "test": scenes(test)},
    {"train": num_statements, "test": num_test},
    seed=seed,
    avoid={"train": hidden, "test": known},
  )
  splits = {
    "train": _real(train) + to_rows("train", rows["train"]),
    "test": to_rows("test", rows["test"]),
    "test_real": _real(test),
  }
  right = sum(e.match for e in test) / len(test)
  info = {
    "name": "nlvr",
    "licence": nlvr.LICENCE,
    "majority": {"test": 0.5, "test_real": round(max(right, 1 - right), 4)},
  }
  settings = {"dataset": "nlvr", "fold": fold, "seed": seed}
  return write(
    out,
    splits,
    rows,
    info=info,
    settings=settings,
    region_dim=region_dim,
    noise=noise,
    vocab_size=vocab_size,
    cased=cased,
    vocab_file=vocab_file,
    engine={"processes": processes, "dry_run": dry_run, "quiet": quiet},
  )


def scenes(examples: Sequence[nlvr.Example]) -> list[Scene]:
  """The scenes of the examples, those that look alike once."""
  return list({e.scene.contents: e.scene for e in examples}.values())


def generate(scenes, num, *, seed: int, avoid) -> dict[str, list[statements.Row]]:
  """Generated rows of "train" and "test"; each argument is a dict of these two.

  Raises: UserError if the scenes are too few or too alike.
  """
  rows = {}
  for split in ("train", "test"):
    own = zlib.crc32(f"{seed}/{split}".encode())
    try:
      rows[split] = statements.generate(
        scenes[split], num[split], seed=own, test=split == "test", avoid=avoid[split]
      )
    except ValueError as error:
      raise errors.UserError(f"{split}: {error}") from None
  return rows


def _real(examples) -> list[dict]:
  return [
    true_regions.row(
      f"real-{e.identifier}", e.sentence, e.scene, match=e.match, kind="real", real=True
    )
    for e in examples
  ]


def to_rows(split: str, rows: Sequence[statements.Row]) -> list[dict]:
  """Generated statements as rows of `true_regions.record`."""
  return [
    true_regions.row(
      f"{split}-{i:06d}", r.text, r.scene, match=r.match, kind=r.kind, real=False
    )
    for i, r in enumerate(rows)
  ]


def write(
  out,
  splits,
  generated,
  *,
  info,
  settings,
  region_dim: int,
  noise: float,
  vocab_size: int,
  cased: bool,
  vocab_file: str,
  engine,
) -> dict:
  """Writes the shards of the splits, `dataset_info.json` and `vocab.txt`.

  Args:
    splits: split -> rows of `true_regions.record`.
    generated: split -> `statements.Row`s, of which the kinds are counted.
    info, settings: the data set's own entries.
    engine: keywords of `shards.write`: processes, dry_run, quiet.
  """
  if region_dim < 1 or noise < 0:
    raise errors.UserError(
      f"region_dim={region_dim}, noise={noise}: region_dim is at least 1, noise 0."
    )
  if vocab_file:
    words = vocabularies.build({"name": "wordpiece", "file": vocab_file})
  else:
    texts = [row["text"] for row in splits["train"]]
    words = vocabularies.learn("wordpiece", texts, size=vocab_size, cased=cased)
  seed, classes = settings["seed"], true_regions.NLVR
  settings = {
    **settings,
    "region_dim": region_dim,
    "noise": noise,
    "vocab_digest": words.digest,
  }
  info = {
    **info,
    "kind": KIND,
    "classes": {"objects": classes.names, "attributes": classes.attributes},
    "statements": {split: statements.mix(rows) for split, rows in generated.items()},
    "vocab": {
      "name": "wordpiece",
      "file": "vocab.txt",
      "size": words.spec.size,
      "digest": words.digest,
    },
  }
  written = shards.write(
    out,
    splits,
    functools.partial(true_regions.record, dim=region_dim, seed=seed, noise=noise),
    columns=true_regions.COLUMNS,
    settings=settings,
    info=info,
    per_shard=PER_SHARD,
    **engine,
  )
  if not engine["dry_run"]:
    words.save(pathlib.Path(out) / "vocab.txt")
  return written
