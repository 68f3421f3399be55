"""Released MIL-NCE weights (antoine77340/S3D_HowTo100M, MIL-NCE_HowTo100M) and back.

Our modules carry the published names, so one rule for each kind of array is enough:
Conv3d [O, I, t, h, w] is [t, h, w, I, O] here, Linear [out, in] is [in, out]. The first
repository's net is the variant "s3d"; checkpoints of the second hold a `state_dict`
with `module.` before each name and are of the variant "s3d_repo".
"""

from collections.abc import Mapping

import jax
import numpy as np

from vlp_jax.importers import Report, Source, all_shapes, finish

# Our last name in `params` or `batch_stats` -> the published one.
_LEAVES = {
  "kernel": "weight",
  "scale": "weight",
  "bias": "bias",
  "mean": "running_mean",
  "var": "running_var",
}
_WORDS = "text_module.word_embd.weight"


def convert(arrays: Mapping[str, np.ndarray], model) -> tuple[dict, Report]:
  """Parameters and batch statistics of `models.mil_nce.Model(video="s3d")`.

  Args:
    arrays: by published name; `num_batches_tracked` is dropped.
    model: with the vocabulary of the checkpoint (66,250 words in the released one).
  Returns: ({"params", "batch_stats"}, report with paths under these two).
  Raises: ValueError for a missing, unknown or wrongly shaped entry.
  """
  source, want = Source(arrays), all_shapes(model)
  flat = {
    path: _turn(source.take(published(path)), path)
    for path in want
    if published(path) in source
  }
  kernels = [path for path in flat if path.endswith("kernel")]
  tree, report = finish(flat, want, source, reshaped=kernels)
  return tree["params"], report


def export(variables: Mapping) -> dict[str, np.ndarray]:
  """The same variables under the published names and in torch's layout."""
  flat = jax.tree_util.tree_leaves_with_path(dict(variables))
  paths = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in flat}
  return {
    published(path): np.ascontiguousarray(_turn(np.asarray(x), path, back=True))
    for path, x in paths.items()
  }


def published(path: str) -> str:
  """`params/video_tower/conv1/bn1/scale` is `conv1.bn1.weight` there."""
  _, tower, *middle, leaf = path.split("/")
  if leaf == "words":
    return _WORDS
  prefix = ["text_module"] if tower == "text_tower" else []
  return ".".join([*prefix, *middle, _LEAVES[leaf]])


def _turn(x, path, *, back=False):
  """Kernels only: output axis first there and last here."""
  if not path.endswith("/kernel") or x.ndim not in (2, 5):
    return x
  if x.ndim == 2:
    return x.T
  return x.transpose(4, 3, 0, 1, 2) if back else x.transpose(2, 3, 4, 1, 0)
