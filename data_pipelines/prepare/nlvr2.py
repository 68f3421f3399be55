"""NLVR2: statements about two photographs each, joined with users' region files.

The records of `prepare/image_text.py` with the left image under `regions/...`, and
  context  regions2/... (the right image), label (1: the statement is true)
and in the index `label` and `sentence`: rows of one sentence, said of several pairs of
images, agree in it (the identifier without its third part).
"""

from data_pipelines.prepare import _join, _text_regions
from data_pipelines.readers import image_pairs
from vlp_jax import errors

LICENCE = "CC BY 4.0 (sentences and labels), github.com/lil-lab/nlvr"


def prepare(
  source,
  out,
  *,
  regions_format: str = "uniter_lmdb",
  regions: str = "",
  regions_options: str = "",
  statements: str = "",
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
  """Joins region features with NLVR2's statements by their two images.

    statements       files: train=train.json,val=dev.json,test=test1.json

  The other options are those of `prepare image_text`. Images are called
  dev-896-0-img0, in UNITER's files nlvr2_dev-896-0-img0.npz.

  Returns: dataset_info, or the estimate of a dry run.
  """
  feed = _join.sources(source, regions, regions_format, regions_options)
  told = _join.annotations(source, statements, image_pairs, "nlvr2", limit=limit)
  unlabelled = [e.key for rows in told.values() for e in rows if e.label is None]
  if unlabelled:
    raise errors.UserError(
      f"{len(unlabelled)} statements have no label, e.g. {unlabelled[0]}."
    )
  about = lambda e: {"label": e.label, "sentence": sentence(e.key)}
  splits, lost = _join.join(told, feed.places(), about, skip_missing=skip_missing)
  rule = _text_regions.Rule(max_regions, min(min_regions, max_regions), conf_th, probs)
  return _text_regions.write(
    out,
    splits,
    feed,
    rule,
    columns=("label", "sentence"),
    settings={"dataset": "nlvr2", "limit": limit},
    info={"name": "nlvr2", "licence": LICENCE, "left_out": lost},
    vocab={"vocab_file": vocab_file, "vocab_size": vocab_size, "cased": cased},
    engine={"processes": processes, "dry_run": dry_run, "quiet": quiet},
  )


def sentence(identifier: str) -> str:
  """dev-896-0-1 (split, set, pair, sentence) -> dev-896-1."""
  split, number, _, own = identifier.rsplit("-", 3)
  return f"{split}-{number}-{own}"
