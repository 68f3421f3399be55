"""Weights of 18-layer 3-D ResNets under torchvision's names, as XDC publishes them.

`stem.{0,1,3,4}`, `layer1.0.conv1.0.{0,1,3}`, `.conv1.1`, `.downsample.{0,1}`, `fc`:
Conv3d [O, I, t, h, w] is [t, h, w, I, O] here. The classifier `fc` is left out. XDC's
files (HumamAlwassel/XDC) want `middles="each", bn_eps=1e-3`, torchvision's "block" and
1e-5.
"""

import re
from collections.abc import Mapping

import numpy as np

from vlp_jax.importers import Report, Source, all_shapes, finish

_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
_STEM = {"stem": "0", "stem_mid_bn": "1", "stem_time": "3", "stem_bn": "4"}
_LAYERS = {  # inside a block
  "conv1/space": "conv1.0.0",
  "conv1/mid_bn": "conv1.0.1",
  "conv1/time": "conv1.0.3",
  "conv1/conv": "conv1.0",
  "bn1": "conv1.1",
  "conv2/space": "conv2.0.0",
  "conv2/mid_bn": "conv2.0.1",
  "conv2/time": "conv2.0.3",
  "conv2/conv": "conv2.0",
  "bn2": "conv2.1",
  "downsample": "downsample.0",
  "downsample_bn": "downsample.1",
}


def convert(
  arrays: Mapping[str, np.ndarray], model, *, tower: str = "video_tower"
) -> tuple[dict, Report]:
  """Variables of the tower `towers.r2plus1d.R2Plus1D` inside a model.

  Args:
    arrays: by published name.
    tower: name of the tower in the model; its other parts are reported as missing.
  Returns: ({"params", "batch_stats"} of the tower, report).
  Raises: ValueError for an entry that lacks or is left over, or a wrong shape.
  """
  source, want = Source(arrays), all_shapes(model)
  mine = [k for k in want if k.split("/")[1] == tower]
  if not mine:
    raise ValueError(f"the model has no {tower!r}.")
  plain = not any("stem_time" in k for k in mine)
  flat = {}
  for path in mine:
    name = published(path, plain_stem=plain)
    if name in source:
      x = source.take(name)
      flat[path] = x.transpose(2, 3, 4, 1, 0) if x.ndim == 5 else x
  kernels = [k for k in flat if k.endswith("/kernel")]
  others = (rf"[^/]+/(?!{re.escape(tower)}/)",)
  tree, report = finish(
    flat, want, source, reshaped=kernels, may_miss=others, may_leave=(r"fc\.",)
  )
  return tree["params"], report


def published(path: str, *, plain_stem: bool = False) -> str:
  """`params/video_tower/layer1_0/bn1/scale` is `layer1.0.conv1.1.weight` there.

  Args:
    plain_stem: of r3d and mc3, one convolution and its BatchNorm.
  """
  _, _, first, *middle, leaf = path.split("/")
  if first.startswith("stem"):
    place = "1" if plain_stem and first == "stem_bn" else _STEM[first]
    parts = ["stem", place]
  else:
    parts = [first.replace("_", "."), _LAYERS["/".join(middle)]]
  return ".".join([*parts, _LEAVES[leaf]])
