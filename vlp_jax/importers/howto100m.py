"""Released HowTo100M weights (antoine77340/howto100m, a torch state dict) and back.

Linear [out, in] there is [in, out] here. The BatchNorm of the gates is in the files and
never used (`GU_*.cg.batch_norm`). The files hold no word vectors, which that code reads
from GoogleNews word2vec: give `words`, or keep the table that the model has.
"""

from collections.abc import Mapping

import jax
import numpy as np

from vlp_jax.formats import read
from vlp_jax.importers import Report, Source, finish, shapes

_MODULES = {
  "text_pooling": "text_pooling.fc",
  "text_gate/fc": "GU_text.fc",
  "text_gate/gate": "GU_text.cg.fc",
  "video_gate/fc": "GU_video.fc",
  "video_gate/gate": "GU_video.cg.fc",
}
_LEAVES = {"kernel": "weight", "bias": "bias"}
_WORDS = "words"


def convert(
  arrays: Mapping[str, np.ndarray], model, *, words: str = ""
) -> tuple[dict, Report]:
  """Parameters of `models.howto100m.Model`.

  Args:
    arrays: by published name.
    model: of the width of the checkpoint, 6,144 in the released one.
    words: path of a .npy table [V, word_dim], a row for each id of the vocabulary, the
      first of padding. Without it the table stays as it was initialised.
  Returns: ({"params"}, report).
  Raises: ValueError for a missing, unknown or wrongly shaped entry.
  """
  source, want = Source(arrays), shapes(model)
  flat = {
    path: _turn(source.take(published(path)))
    for path in want
    if path != _WORDS and published(path) in source
  }
  if words:
    flat[_WORDS] = np.asarray(read.npy(words), np.float32)
  return finish(
    flat,
    want,
    source,
    reshaped=[path for path in flat if path.endswith("kernel")],
    may_miss=() if words else (f"{_WORDS}$",),
    may_leave=(r"GU_(text|video)\.cg\.batch_norm\.",),
  )


def export(variables: Mapping) -> dict[str, np.ndarray]:
  """The same parameters under the published names, without words and BatchNorm."""
  leaves = jax.tree_util.tree_leaves_with_path(dict(variables["params"]))
  paths = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}
  return {
    published(path): np.ascontiguousarray(_turn(np.asarray(x)))
    for path, x in paths.items()
    if path != _WORDS
  }


def published(path: str) -> str:
  """`text_gate/gate/kernel` is `GU_text.cg.fc.weight` there."""
  module, _, leaf = path.rpartition("/")
  return f"{_MODULES[module]}.{_LEAVES[leaf]}"


def _turn(x):
  return x.T if x.ndim == 2 else x
