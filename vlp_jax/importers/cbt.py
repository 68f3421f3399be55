"""CBT's start: a BERT checkpoint for the text tower, a released S3D for the video one.

`init_from = dict(path=BERT, importer="cbt")`, and with model.video="s3d" also
`video=FILE` in the layout of `importers.s3d`. All else starts fresh.
"""

from collections.abc import Mapping

import numpy as np

from vlp_jax.formats import read as read_lib
from vlp_jax.importers import Report, Source, all_shapes, finish, s3d
from vlp_jax.importers import bert as importer
from vlp_jax.importers import bert_layers as bert

AT = "params/text_tower"


class _Sizes:
  """The text tower of a CBT model, as `importers.bert` wants it."""

  def __init__(self, model):
    self.depth, self.num_heads = model.text_depth, model.text_heads
    self.heads = ("mlm",) if model.mlm else ()


def convert(
  arrays: Mapping[str, np.ndarray], model, *, video: str = ""
) -> tuple[dict, Report]:
  """Variables of `models.cbt.Model`; what neither file holds is `missing`."""
  source, want, notes = importer.read(arrays), all_shapes(model), []
  sizes = _Sizes(model)
  flat = bert.under(AT, importer.tower(source, want, AT, sizes, notes))
  flat |= bert.under("params", importer.heads(source, sizes))
  if video:
    flat |= _video(read_lib.read(video), want)
  missing = r"params/(embed|positions|norm|visual|cross|head|mlm_head)\b"
  may_miss = [missing] if video else [missing, r"\w+/video_tower/"]
  tree, report = finish(
    flat,
    want,
    source,
    reshaped=[k for k in flat if k.endswith("kernel") or "/layers/" in k],
    surgery=notes,
    may_miss=may_miss,
    may_leave=(r"cls\.", r"bert\.pooler\."),
  )
  return tree["params"], report


def _video(arrays, want):
  """Paths of the video tower out of a released S3D; its text side is not used."""
  source, flat = Source(arrays), {}
  for path in want:
    if path.split("/")[1] != "video_tower":
      continue
    x = source.take(s3d.published(path))
    flat[path] = x.transpose(2, 3, 4, 1, 0) if x.ndim == 5 else x
    if path.endswith("kernel") and x.ndim == 2:
      flat[path] = x.T
  return flat
