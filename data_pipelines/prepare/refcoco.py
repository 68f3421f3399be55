"""Referring expressions (RefCOCO, RefCOCO+, RefCOCOg) joined with region files.

The records of `prepare/image_text.py`, one an expression, and
  context  refer/box (float32 x1 y1 x2 y2 in 0..1): what is meant

Which region that is follows from the boxes when the records are streamed, so regions of
true boxes and of a detector serve alike. The published recipe trains on true boxes and
tests on detected ones too: prepare both, each into its own directory.
"""

from data_pipelines.prepare import _join, _text_regions
from data_pipelines.readers import image_pairs

LICENCE = "see the source (images: COCO)"


def prepare(
  source,
  out,
  *,
  regions_format: str = "uniter_lmdb",
  regions: str = "",
  regions_options: str = "",
  expressions: str = ".",
  skip_missing: bool = False,
  max_regions: int = 100,
  min_regions: int = 1,
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
  """Joins region features with referring expressions by image.

    expressions  the directory with refs(unc).p and instances.json, below --source; the
                 splits are those of the file: train, val, testA, testB or test

  The other options are those of `prepare image_text`. Images are called by their COCO
  number, in UNITER's files visual_grounding_coco_gt_000000000042.npz.

  Returns: dataset_info, or the estimate of a dry run.
  """
  feed = _join.sources(source, regions, regions_format, regions_options)
  told = _join.annotations(source, expressions, image_pairs, "refcoco", limit=limit)

  def add(e):
    return {k: e.more[k] for k in ("box", "size") if k in e.more}

  splits, lost = _join.join(told, feed.places(), add, skip_missing=skip_missing)
  rule = _text_regions.Rule(max_regions, min(min_regions, max_regions), conf_th, probs)
  return _text_regions.write(
    out,
    splits,
    feed,
    rule,
    columns=(),
    settings={"dataset": "refcoco", "limit": limit},
    info={"name": "refcoco", "licence": LICENCE, "left_out": lost},
    vocab={"vocab_file": vocab_file, "vocab_size": vocab_size, "cased": cased},
    engine={"processes": processes, "dry_run": dry_run, "quiet": quiet},
  )
