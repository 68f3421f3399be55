"""Video tokens of clip features inside a pipeline, through a saved k-means tree.

Chosen over assignment on device because ids are all that then travels there: 4 bytes a
clip and not 2 or 4 times its width, and 4 x 12 distances a clip are little beside
reading it. Where a step makes the features itself, `vlp_jax.cluster_tree.descend` gives
the same ids on the device.
"""

from collections.abc import Mapping

import numpy as np

from vlp_jax import cluster_tree
from vlp_jax.errors import UserError


class Tokens:
  """Adds clips_tokens [B, T] int32 to batches; for the `finish` of a task.

  Args:
    tree: file of `launch.cluster`. digest: of the tree that is meant, if known.
    keep: leave clips_features in the batch as well.
  Attributes:
    digest, size: the tree's: for the definition's digest and for the model.
  Raises: UserError or CheckpointError as `cluster_tree.load`.
  """

  def __init__(self, tree, *, digest: str = "", keep: bool = False):
    self.path, self.tree, self.keep = tree, cluster_tree.load(tree, digest=digest), keep
    self.digest, self.size = self.tree.digest, self.tree.size

  def check(self, width: int, what: str) -> None:
    """Raises UserError unless features of this width are the tree's; before reading."""
    if width != self.tree.width:
      raise UserError(
        f"{what} has features of width {width}; the tree {self.path} was made of "
        f"{self.tree.width}. Cluster these with launch.cluster, or extract others."
      )

  def __call__(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The batch with tokens; 0 where clips_mask is False."""
    x, mask = batch["clips_features"], batch["clips_mask"]
    self.check(x.shape[-1], "the batch")
    tokens = np.zeros(mask.shape, np.int32)
    tokens[mask] = self.tree.assign(x[mask])
    out = {k: v for k, v in batch.items() if self.keep or k != "clips_features"}
    return out | {"clips_tokens": tokens}
