"""Seconds of video, scored for steps by their words or for classes by a head."""

import itertools
import math

from vlp_jax.costs import families, flops

MODELS = ("clip_labels", "crosstask")
OBJECTIVES = ("alignment:weak", "classify:softmax", "classify:sigmoid")


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part. The alignment is additions; padded seconds count as real ones."""
  families.known(objective, OBJECTIVES)
  seconds = math.prod(batch["clips_mask"].shape)
  if hasattr(model, "num_classes"):
    rows = families.rows(batch) if model.pool else seconds
    sizes = [model.feature_dim, *filter(None, [model.hidden]), model.num_classes]
    layers = itertools.pairwise(sizes)
    return {"head": sum(flops.linear(rows, a, b) for a, b in layers)}
  steps = batch["choice_mask"].shape[1]
  return {
    "words": flops.linear(seconds, model.feature_dim, model.vocab_size),
    "steps": flops.linear(seconds, model.vocab_size, steps),
  }
