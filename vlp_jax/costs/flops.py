"""FLOPs of layers by formula: a multiply-add is 2, what is no matmul is nothing.

Norms, activations, softmax, dropout, pooling and look-ups are left out, as in every
published count: they cost memory traffic, not arithmetic. `tokens`, `rows` and
`positions` are numbers of vectors, over the whole batch, and may be means.
"""

from collections.abc import Sequence

TRAINING = 3  # forward, gradient of inputs, gradient of weights


def linear(rows: float, width: int, features: int) -> float:
  """y = x W on `rows` vectors."""
  return 2.0 * rows * width * features


def attention(tokens: float, width: int, attended: float) -> float:
  """Scores and weighted sum of `tokens` queries over `attended` keys each."""
  return 2 * linear(tokens, width, 1) * attended


def block(tokens: float, width: int, mlp_dim: int, attended: float) -> float:
  """A Transformer layer: queries, keys, values, output, attention, MLP.

  2 T (4 D^2 + 2 D F) + 4 T D A, which is 24 T D^2 + 4 T D A for F = 4 D.
  """
  weights = linear(tokens, width, 4 * width) + 2 * linear(tokens, width, mlp_dim)
  return weights + attention(tokens, width, attended)


def cross(queries: float, keys: float, width: int, attended: float) -> float:
  """Attention of `queries` over another stream: all four maps, scores, sum."""
  maps = linear(queries, width, 2 * width) + linear(keys, width, 2 * width)
  return maps + attention(queries, width, attended)


def conv(positions: float, window: Sequence[int], width: int, features: int) -> float:
  """A convolution with `positions` places out; zeros of the padding count as data."""
  taps = 1
  for k in window:
    taps *= k
  return linear(positions, taps * width, features)


def separable(
  positions: float, window: Sequence[int], width: int, features: int
) -> float:
  """1 x h x w, then t x 1 x 1, both `features` wide, without strides."""
  t, h, w = window
  space = conv(positions, (1, h, w), width, features)
  return space + conv(positions, (t, 1, 1), features, features)
