"""Scores between the rows of a batch: FLOPs of a block, and what devices exchange."""

from vlp_jax.costs import flops

NAMES = ("ego", "mil_nce", "nt_xent", "sigmoid", "symmetric")
OBJECTIVES = (*(f"contrastive:{name}" for name in NAMES), "ranking:max_margin")


def scores(left: float, right: float, width: int) -> float:
  """All products of `left` vectors with `right` ones."""
  return flops.linear(left, width, right)


def gathered(left: float, width: int, shards: int) -> list[tuple[str, int, float, str]]:
  """Each device has all left vectors, float32, and scatters the sum of their gradients.

  The right ones, of which a row may have several, stay where they are.
  """
  size = left * width * 4.0
  return [
    ("all-gather", 1, size, "batch"),
    ("reduce-scatter", 1, size / shards, "batch"),
  ]
