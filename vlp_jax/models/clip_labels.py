"""Classes out of stored features: of each second of a video, or of a whole segment.

The head under which video-text systems are compared on COIN's action segmentation
(arXiv 1903.02874): a linear layer, or one hidden layer, on features that stay as they
are. With `pool` it classifies a rated segment of YouTube-8M by the mean of its seconds.

Reads:   clips_features [B, T, D], clips_mask [B, T].
Returns: logits [B, T, K] and logits_mask [B, T]; with `pool` [B, K] and [B].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import dropout, fields
from vlp_jax.metrics import wide

VARIANTS = {
  "mu": dict(feature_dim=24, hidden=16),
  "s3d": dict(feature_dim=1024),  # mixed_5c of MIL-NCE
  "cbt": dict(feature_dim=768),
  "youtube8m": dict(feature_dim=1024 + 128, pool=True),
}


class Model(nn.Module):
  """See the module's header.

  Attributes:
    num_classes: K; of COIN background is class 0.
    feature_dim: D.
    hidden: units of a hidden layer (ReLU); 0 for a linear classifier.
    dropout: before each matmul.
    pool: whether a row has one answer, of the mean of its real features.
    dtype: of the matmuls.
  """

  num_classes: fields.Count
  feature_dim: fields.Count = 1024
  hidden: int = 0
  dropout: fields.Rate = 0.0
  pool: bool = False
  dtype: fields.Dtype = "float32"

  def setup(self):
    if self.hidden < 0:
      raise ValueError(f"hidden is {self.hidden}; give 0 for a linear layer, or more.")
    dtype = jnp.dtype(self.dtype)
    self.drop = dropout.Dropout(self.dropout)
    if self.hidden:
      self.deep = nn.Dense(self.hidden, dtype=dtype)
    self.classifier = nn.Dense(self.num_classes, dtype=dtype)

  def spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Every key that the model reads, at the least sizes."""
    shapes = {
      "clips_features": ((1, 2, self.feature_dim), jnp.float32),
      "clips_mask": ((1, 2), jnp.bool_),
    }
    return {k: jax.ShapeDtypeStruct(*v) for k, v in shapes.items()}

  def __call__(self, batch, *, train: bool = False) -> dict[str, jax.Array]:
    """See the module's header."""
    x, mask = batch["clips_features"], batch["clips_mask"]
    if x.shape[-1] != self.feature_dim:
      raise ValueError(
        f"clips_features has width {x.shape[-1]}; clip_labels expects "
        f"{self.feature_dim}. Set model.feature_dim for other extractors."
      )
    x = jnp.where(mask[..., None], x, 0.0)  # rubbish behind the mask is not read
    if self.pool:
      count = mask.sum(axis=-1)
      x, mask = x.sum(axis=-2) / jnp.maximum(count, 1)[..., None], count > 0
    x = self.drop(x, train=train)
    if self.hidden:
      x = self.drop(nn.relu(self.deep(x)), train=train)
    return {"logits": wide(self.classifier(x)), "logits_mask": mask}
