"""Seconds of video scored for steps by their words: a linear layer over all words."""

import math

from vlp_jax.costs import families, flops

MODELS = ("crosstask",)
OBJECTIVES = ("alignment:weak",)


def forward(model, batch, lengths, objective) -> dict[str, float]:
  """FLOPs by part. The alignment is additions; padded seconds count as real ones."""
  families.known(objective, OBJECTIVES)
  seconds = math.prod(batch["clips_mask"].shape)
  steps = batch["choice_mask"].shape[1]
  return {
    "words": flops.linear(seconds, model.feature_dim, model.vocab_size),
    "steps": flops.linear(seconds, model.vocab_size, steps),
  }
