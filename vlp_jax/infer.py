"""Models on numpy inputs, for notebooks and services: embed, score, anything.

model = infer.Model.load("runs/quickstart")
video = model.embed_video(video_frames=frames)       # uint8 [B, T, H, W, 3]
text = model.embed_text(text_ids=ids)                # int32 [B, L]
scores = infer.scores(text, video)
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from vlp_jax import batch as batch_lib
from vlp_jax import checkpoint, resolve, workdir
from vlp_jax import settings as settings_lib
from vlp_jax import state as state_lib
from vlp_jax.errors import UserError


class Model:
  """A model with its variables; masks that are not given are all True.

  Attributes:
    module, variables: linen module and {"params": ..., ...}.
    tokeniser: of the run's vocabulary, None if it has none on disk.
  """

  def __init__(self, module: nn.Module, variables: Mapping[str, Any], tokeniser=None):
    self.module, self.variables, self.tokeniser = module, variables, tokeniser
    self.apply = state_lib.make_apply(module)
    self.calls = {}

  @classmethod
  def load(cls, path: str) -> "Model":
    """The newest valid checkpoint of a workdir, with the config saved beside it."""
    s = settings_lib.load(settings_lib.with_twins(workdir.read_config(path)))
    vocab, tokeniser = settings_lib.vocabulary(s)
    inject = {"vocab": vocab, "vocab_size": vocab.size}
    module = resolve.model(s.model, inject=inject)
    return cls(module, checkpoint.load_variables(path), tokeniser)

  def __call__(self, *, method: str | None = None, **arrays) -> dict[str, np.ndarray]:
    """All outputs of the model for a batch given by its keys (see vlp_jax.batch)."""
    batch = {k: np.asarray(x) for k, x in arrays.items()}
    for key in list(batch):
      stream, _, field = key.rpartition("_")
      if field in ("ids", "frames", "features", "samples"):
        batch.setdefault(f"{stream}_mask", _mask(field, batch[key]))
    batch_lib.check(batch)
    unknown = set(batch) - set(self.module.spec())
    if unknown:
      hint = resolve.nearest(min(unknown), self.module.spec())
      raise UserError(f"the model does not read {min(unknown)!r}.{hint}")
    if method not in self.calls:
      call = lambda v, b: self.apply(v, b, method=method)[0]
      self.calls[method] = jax.jit(call)
    return jax.device_get(self.calls[method](self.variables, batch))

  def embed_text(self, **arrays) -> np.ndarray:
    """[B, D] (or [B, K, D] of several texts a row)."""
    return self(method="encode_text", **arrays)["text_embed"]

  def embed_video(self, **arrays) -> np.ndarray:
    """[B, D]."""
    return self(method="encode_video", **arrays)["video_embed"]


def _mask(field, x):
  """Real are all frames, regions and samples, and ids other than 0."""
  if field == "ids":
    return x != 0
  axes = {"frames": x.ndim - 3, "features": 2, "samples": 2}[field]
  return np.ones(x.shape[:axes], bool)


def scores(queries: np.ndarray, items: np.ndarray) -> np.ndarray:
  """[Q, N] dot products of embeddings [Q, D] and [N, D]."""
  return queries @ items.T
