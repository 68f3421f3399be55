"""FLOPs of Transformers by formula, a row of tokens at a time.

All tokens of a row are counted as seeing each other: masked scores of causal models and
packed rows are computed as well, and published counts have them.
"""

from vlp_jax.costs import flops


def stack(
  depth: int,
  tokens: float,
  width: int,
  mlp_dim: int | None = None,
  read: float | None = None,
) -> float:
  """`depth` layers over one row; mlp_dim is 4 * width when None.

  Args: read: tokens that the last layer runs for; it projects queries, keys and values
    of all. None: all.
  """
  mlp_dim = mlp_dim or 4 * width
  layer = flops.block(tokens, width, mlp_dim, tokens)
  if read is None:
    return depth * layer
  projected = flops.linear(tokens - read, width, 3 * width)
  last = flops.block(read, width, mlp_dim, tokens) + projected
  return (depth - 1) * layer + last


def decoder(
  depth: int, tokens: float, context: float, width: int, mlp_dim: int | None = None
) -> float:
  """`depth` layers that also attend to a context as wide as they are."""
  across = flops.cross(tokens, context, width, context)
  return stack(depth, tokens, width, mlp_dim) + depth * across


def words(places: float, width: int, size: int) -> float:
  """The head of words: a transform, and a product with a table of `size` rows."""
  return flops.linear(places, width, width) + flops.linear(places, width, size)


def again(
  remat: str,
  depth: int,
  tokens: float,
  width: int,
  mlp_dim: int | None = None,
  context: float | None = None,
  read: float | None = None,
) -> float:
  """FLOPs of a row that rematerialisation runs again in the backward pass.

  Args: context: of a decoder; read: see `stack`, which has none.
  """
  if remat == "none":
    return 0.0
  if remat == "dots":  # matmuls of weights are kept
    attended = tokens + (context or 0)
    last = flops.attention(tokens if read is None else read, width, attended)
    return (depth - 1) * flops.attention(tokens, width, attended) + last
  if context is None:
    return stack(depth, tokens, width, mlp_dim, read)
  return decoder(depth, tokens, context, width, mlp_dim)


def partial_sums(
  model, rows: float, tokens: float, shards: int, parts: int
) -> list[tuple[str, int, float, str]]:
  """Sums of partial outputs over the mesh axis `model`, two a layer and direction."""
  if parts == 1:
    return []
  wide = 4 if model.dtype == "float32" else 2
  each = rows / shards * tokens * model.width * wide
  count = 4 * model.depth
  return [("all-reduce", count, count * each, "model")]
