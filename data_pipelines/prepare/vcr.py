"""VCR: questions with four answers and four rationales, joined with region files.

SequenceExamples, one a question:
  context  key, group (image), text (the question), label, rationale_label (-1 where
           they are not told), regions/... as of `prepare/image_text.py`: those of true
           boxes first, if given, then those of a detector, and regions/true, how many
           are of true boxes
  lists    answer/text, rationale/text, four each
The index has num_regions, group, label. `task: vcr` streams them.
"""

from collections.abc import Mapping

import numpy as np

from data_pipelines import records
from data_pipelines.prepare import _join, _text_regions
from data_pipelines.readers import image_pairs, regions
from vlp_jax import errors

LICENCE = "see the source (visualcommonsense.com)"
PREFIXES = ("", "vcr_gt_", "vcr_det_")  # of UNITER's names, before the image's number


def prepare(
  source,
  out,
  *,
  regions_format: str = "uniter_lmdb",
  regions: str = "",
  true_regions: str = "",
  regions_options: str = "",
  questions: str = "",
  skip_missing: bool = False,
  max_regions: int = 100,
  min_regions: int = 10,
  conf_th: float = 0.0,
  probs: bool = False,
  limit: int = 0,
  vocab_size: int = 8192,
  cased: bool = False,
  vocab_file: str = "",
  processes: int = 1,
  dry_run: bool = False,
  quiet: bool = False,
) -> dict:
  """Joins region features with VCR's questions by image.

    regions       files of detected regions
    true_regions  of the annotated objects, in the same format; without them detected
                  ones stand alone
    questions     files: train=train.jsonl,val=val.jsonl,test=test.jsonl
    max_regions   of an image, true ones first; with conf_th detected ones above it

  The other options are those of `prepare image_text`. Images are found by img_fn, or by
  img_id as UNITER's files name them (vcr_gt_train-0.npz, vcr_det_train-0.npz).

  Returns: dataset_info, or the estimate of a dry run.
  """
  given = [part for part in (true_regions, regions) if part]
  feed = _join.sources(source, ",".join(given), regions_format, regions_options)
  num_true = len([p for p in true_regions.split(",") if p.strip()])
  if num_true == len(feed.paths) and true_regions:
    raise errors.UserError("true_regions without regions: give both, or regions alone.")
  told = _join.annotations(source, questions, image_pairs, "vcr", limit=limit)
  own = [p for at, p in _numbered(feed) if at < num_true]
  found = [p for at, p in _numbered(feed) if at >= num_true]
  places = [{k: v for d in part for k, v in d.items()} for part in (own, found)]
  splits, lost = _rows(told, places[num_true == 0 :], skip_missing)
  rule = _text_regions.Rule(max_regions, min(min_regions, max_regions), conf_th, probs)
  return _text_regions.write(
    out,
    splits,
    feed,
    rule,
    columns=("label",),
    settings={"dataset": "vcr", "limit": limit},
    info={"name": "vcr", "licence": LICENCE, "left_out": lost},
    vocab={"vocab_file": vocab_file, "vocab_size": vocab_size, "cased": cased},
    engine={"processes": processes, "dry_run": dry_run, "quiet": quiet},
    encode=record,
  )


def _numbered(feed):
  """(number of the source, {image: place}) of each source."""
  for number in range(len(feed.paths)):
    of = feed.reader(number).places.items()
    yield number, {name: [number, name, place] for name, place in of}


def _rows(told, places, skip_missing):
  """(split -> rows, split -> what was left out): an image of each kind of regions."""
  find, out, lost, hits = [regions.lookup(p) for p in places], {}, {}, 0
  for split, examples in told.items():
    counts = lost[split] = {"no_text": 0, "no_regions": 0}
    kept = out[split] = []
    for e in examples:
      texts = [*e.more["answers"], *e.more["rationales"]]
      if not e.text or not all(texts):
        counts["no_text"] += 1
        continue
      names = [e.images[0], *(p + e.more.get("img_id", "") for p in PREFIXES)]
      at = []
      for own, of in zip(find, places, strict=True):
        name = next(filter(None, (own(n) for n in names if n not in PREFIXES)), None)
        at.append(None if name is None else of[name])
      hits += None not in at
      if skip_missing and None in at:
        counts["no_regions"] += 1
        continue
      row = {"key": e.key, "text": e.text, "texts": texts, "images": list(e.images)}
      label = -1 if e.label is None else int(e.label)
      rationale = e.more["rationale_label"]
      row |= {"label": label, "rationale": -1 if rationale is None else int(rationale)}
      kept.append(row | {"at": None if None in at else at})
  if any(told.values()) and not hits:
    raise errors.UserError(
      f"no question finds its image: regions are of {next(iter(places[-1]))!r} and "
      "others. Are these files of one image set?"
    )
  return out, lost


def record(
  row: Mapping, *, feed: _join.Sources, rule: _text_regions.Rule
) -> tuple[bytes, dict]:
  """(SequenceExample bytes, index columns) of a question.

  Raises: ValueError that names the image if it is missing or damaged.
  """
  if row["at"] is None:
    raise ValueError(f"no regions of image {row['images'][0]}")
  *true, last = row["at"]
  sure = rule._replace(conf_th=0.0)  # what people drew is not left out
  own = [_text_regions.read(*at, feed=feed, rule=sure) for at in true]
  found = _text_regions.read(*last, feed=feed, rule=rule)
  image, num = found, 0
  if own:
    num = len(own[0].features)
    image = joined(own[0], found, rule.max_regions)
  group = regions.plain(row["images"][0])
  context = {"key": row["key"], "group": group, "text": row["text"]}
  context |= {"label": row["label"], "rationale_label": row["rationale"]}
  context |= regions.entries(image) | {"regions/true": num}
  lists = {"answer/text": row["texts"][:4], "rationale/text": row["texts"][4:]}
  columns = {"num_regions": len(image.features), "group": group, "label": row["label"]}
  return records.encode(context, lists), columns


def joined(own: regions.Image, found: regions.Image, most: int) -> regions.Image:
  """The regions of one image after those of another; what one lacks is left out."""
  room = most - len(own.features)
  if room > 0:
    found = regions.select(found, max_regions=room, min_regions=1)
    parts = {}
    for name in regions.ARRAYS:
      a, b = getattr(own, name), getattr(found, name)
      known = a is not None and b is not None
      parts[name] = np.concatenate([a, b]) if known else None
    return own._replace(**parts)
  return own
