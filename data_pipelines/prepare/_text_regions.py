"""Records of kind text + regions from rows of `_join.py`: encoding and writing."""

import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines import records, vocabularies
from data_pipelines.prepare import _join, shards
from data_pipelines.readers import example as examples
from data_pipelines.readers import regions
from vlp_jax import errors

KIND = "regions"
PER_SHARD = 2048
PROBED = 100  # rows tried for the widths that all others must have


class Rule(NamedTuple):
  """Which regions are kept, and what all images must agree in (0: not known)."""

  max_regions: int
  min_regions: int
  conf_th: float
  probs: bool
  names: tuple[str, ...] = ()  # of the classes 1, 2, ...
  region_dim: int = 0
  region_classes: int = 0


def record(row: Mapping, *, feed: _join.Sources, rule: Rule) -> tuple[bytes, dict]:
  """(SequenceExample bytes of kind text + regions, index columns) of a row.

  One image gives `regions/...`, a second one `regions2/...`.
  Raises: ValueError that names the image if it is missing or damaged.
  """
  if row["at"] is None:
    raise ValueError(f"no regions of image {' or '.join(row['images'])}")
  images = [read(*at, feed=feed, rule=rule) for at in row["at"]]
  text = row["text"] or examples.clean(images[0].caption)
  if not text:
    raise ValueError(f"image {images[0].name}: no caption")
  group = " ".join(regions.plain(i.name) for i in images)
  context = {"key": row["key"], "group": group, "text": text}
  columns = {"num_regions": sum(len(i.features) for i in images), "group": group}
  for image, prefix in zip(images, ("regions", "regions2"), strict=False):
    context |= regions.entries(image, prefix)
  if tags := _tags(images[0], rule.names):
    context["tags"] = tags
  if "label" in row:
    context["label"] = columns["label"] = row["label"]
  if "sentence" in row:
    columns["sentence"] = row["sentence"]
  if "answers" in row:
    context["answers/ids"] = np.array([i for i, _ in row["answers"]], int)
    context["answers/scores"] = np.array([s for _, s in row["answers"]], float)
    columns["num_answers"] = len(row["answers"])
  if "box" in row:
    context["refer/box"] = _inside(row, images[0])
  return records.encode(context), columns


def _inside(row, image: regions.Image) -> np.ndarray:
  """[4] x1 y1 x2 y2 in 0..1 of the row's box in pixels, cut at the edges."""
  size = row.get("size") or (image.width, image.height)
  if not all(size):
    raise ValueError(f"image {image.name}: its size is told nowhere")
  box = np.asarray(row["box"], np.float64) / (*size, *size)
  x1, y1, x2, y2 = np.clip(box, 0.0, 1.0)
  if not (x1 < x2 and y1 < y2):
    raise ValueError(f"image {image.name}: box {row['box']} is not inside {size}")
  return np.array([x1, y1, x2, y2], np.float32)


def read(
  number: int, name: str, place, *, feed: _join.Sources, rule: Rule
) -> regions.Image:
  """The kept regions of an image; ValueError that names it if another width."""
  image = feed.reader(number).read(name, place)
  dim = image.features.shape[1]
  if rule.region_dim and dim != rule.region_dim:
    raise ValueError(f"image {name}: features are {dim} wide, others {rule.region_dim}")
  if not rule.probs:
    image = image._replace(probs=None)
  classes = 0 if image.probs is None else image.probs.shape[1]
  if rule.region_dim and classes != rule.region_classes:
    raise ValueError(f"image {name}: {classes} classes, others {rule.region_classes}")
  if rule.names and image.objects is not None:
    top = int(image.objects.max())
    if top > len(rule.names):
      raise ValueError(f"image {name}: class {top}, {len(rule.names)} have names")
  return regions.select(
    image,
    max_regions=rule.max_regions,
    min_regions=rule.min_regions,
    conf_th=rule.conf_th,
  )


def _tags(image: regions.Image, names: Sequence[str]) -> str:
  if image.tags:
    return " ".join(image.tags)
  if names and image.objects is not None:
    return " ".join(names[k - 1] for k in image.objects if k > 0)
  return ""


def _probe(splits, feed: _join.Sources, rule: Rule) -> tuple[Rule, list[str]]:
  """The rule with the widths of the first image that can be read, and its fields."""
  rows = [r for rows in splits.values() for r in rows if r["at"] is not None]
  reason = "none has regions"
  for row in rows[:PROBED]:
    try:
      image = read(*row["at"][0], feed=feed, rule=rule)
    except ValueError as error:
      reason = error
      continue
    classes = 0 if image.probs is None else image.probs.shape[1]
    if rule.names and classes not in (0, len(rule.names) + 1):
      raise errors.UserError(
        f"objects_file has {len(rule.names)} names; the regions have {classes - 1} "
        "classes and the background."
      )
    fields = [k for k in regions.ARRAYS if getattr(image, k) is not None]
    rule = rule._replace(region_dim=image.features.shape[1], region_classes=classes)
    return rule, fields
  raise errors.UserError(
    f"of {len(rows[:PROBED])} images none can be read, the last: {reason}."
  )


def write(
  out,
  splits: Mapping[str, Sequence[Mapping]],
  feed: _join.Sources,
  rule: Rule,
  *,
  columns: Sequence[str],
  settings: Mapping,
  info: Mapping,
  vocab: Mapping,
  engine: Mapping,
  encode: Callable = record,
) -> dict:
  """Writes the shards, `dataset_info.json` and `vocab.txt`.

  Args:
    encode: `record`, or what another data set makes of a row with `feed` and `rule`.
    columns: of the index beside num_regions and group.
    vocab: vocab_file, vocab_size, cased.
    engine: keywords of `shards.write`: processes, dry_run, quiet.
  Returns: dataset_info, or the estimate of a dry run.
  """
  if not 0 < rule.min_regions <= rule.max_regions:
    raise errors.UserError(
      f"min_regions={rule.min_regions}, max_regions={rule.max_regions}: at least 1, "
      "and the first at most the second."
    )
  rule, fields = _probe(splits, feed, rule)
  words = _words(splits, **vocab)
  settings = {
    **settings,
    "regions_format": feed.kind,
    "regions_options": dict(feed.options),
    **rule._replace(names=())._asdict(),
    "vocab_digest": words.digest,
  }
  settings.pop("names")
  info = {
    **info,
    "kind": KIND,
    "regions_fields": fields,
    "region_dim": rule.region_dim,
    "region_classes": rule.region_classes,
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
    functools.partial(encode, feed=feed, rule=rule),
    columns=("num_regions", "group", *columns),
    settings=settings,
    info=info,
    per_shard=PER_SHARD,
    **engine,
  )
  if not engine["dry_run"]:
    words.save(pathlib.Path(out) / "vocab.txt")
  return written


def _words(splits, *, vocab_file: str, vocab_size: int, cased: bool):
  if vocab_file:
    return vocabularies.build({"name": "wordpiece", "file": vocab_file})
  rows = [r for s, rows in splits.items() if s.startswith("train") for r in rows]
  texts = [t for r in rows for t in (r["text"], *r.get("texts", ())) if t]
  if not texts:
    raise errors.UserError(
      "no training text to learn a vocabulary from; give --vocab_file."
    )
  return vocabularies.learn("wordpiece", texts, size=vocab_size, cased=cased)
