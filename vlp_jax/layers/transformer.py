"""The BERT block and a stack of them, scanned so that depth costs no compile time.

    h = LN(x + Drop(W_o MHA(x))),  y = LN(h + Drop(W_2 act(W_1 h)))

Post-norm with eps 1e-12 and the erf form of GELU, as in BERT (arXiv 1810.04805) and all
single-stream systems but VLP (eps 1e-5).
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from vlp_jax.layers import attention, dense, dropout
from vlp_jax.metrics import wide

# What the backward pass finds stored; the rest it computes again.
REMAT = {
  "none": None,
  "dots": jax.checkpoint_policies.save_only_these_names(dense.PRODUCT),
  "full": jax.checkpoint_policies.nothing_saveable,
}

# Layers that are compiled one by one: a loop would stack what the backward pass keeps,
# a tenth of the time on a CPU, and compiling a few layers costs little.
FEW = 4


class Encoded(NamedTuple):
  """x [B, M, D], or [B, P, D] of the places read; on request hidden [depth, B, M, D],
  maps [depth, B, heads, M, M].
  """

  x: jax.Array
  hidden: jax.Array | None = None
  maps: jax.Array | None = None


class Block(nn.Module):
  """One post-norm layer.

  Attributes:
    dropout: rate after attention and MLP; attention_dropout: on the probabilities, the
      same when None.
    eps: of the norms; act: name in `dense.ACTIVATIONS`.
  """

  num_heads: int
  mlp_dim: int
  dropout: float = 0.1
  attention_dropout: float | None = None
  eps: float = 1e-12
  act: str = "gelu"
  dtype: str = "float32"
  implementation: str | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    where: jax.Array | None = None,
    full: jax.Array | None = None,
    *,
    read: jax.Array | None = None,
    train: bool = False,
    maps: bool = False,
  ) -> attention.Attended:
    rate = self.dropout
    shape = x.shape if read is None else (*read.shape, x.shape[-1])
    if train and rate > 0:  # both hidden masks out of one draw
      kept = dropout.keep(self.make_rng("dropout"), (2, *shape), rate)
      drop = lambda y, i: dropout.scaled(y, kept[i], rate)
    else:
      drop = lambda y, i: y
    axes = ("act_batch", "act_length", "act_embed")
    norm = lambda name: dense.LayerNorm(self.eps, self.dtype, name=name)
    attended = attention.Attention(
      self.num_heads,
      dropout=rate if self.attention_dropout is None else self.attention_dropout,
      dtype=self.dtype,
      implementation=self.implementation,
      name="attention",
    )(x, where, full, read=read, train=train, maps=maps)
    if read is not None:
      x = jnp.take_along_axis(x, read[..., None], axis=1)
    # The sum in float32: in bfloat16 the residual would lose what the layer adds.
    x = norm("attention_norm")(wide(x) + drop(attended.x, 0))
    x = nn.with_logical_constraint(x, axes)
    up = dense.Linear(self.mlp_dim, ("embed", "mlp"), dtype=self.dtype, name="mlp_in")
    down = dense.Linear(
      x.shape[-1], ("mlp", "embed"), dtype=self.dtype, act=self.act, name="mlp_out"
    )
    y = nn.with_logical_constraint(up(x), ("act_batch", "act_length", "act_mlp"))
    x = norm("mlp_norm")(wide(x) + drop(down(y), 1))
    return attention.Attended(nn.with_logical_constraint(x, axes), attended.maps)


class Stack(nn.Module):
  """`depth` blocks; their parameters are stacked under "layers", [depth, ...].

  Attributes:
    remat: "none", "dots" (matmuls are kept) or "full" (only the layers' inputs are).
    unroll: layers a step of the scan; None: all where they are few, else one.
  """

  depth: int
  num_heads: int
  mlp_dim: int
  dropout: float = 0.1
  attention_dropout: float | None = None
  eps: float = 1e-12
  act: str = "gelu"
  dtype: str = "float32"
  implementation: str | None = None
  remat: str = "none"
  unroll: int | None = None

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    where: jax.Array | None = None,
    full: jax.Array | None = None,
    *,
    read: jax.Array | None = None,
    train: bool = False,
    hidden: bool = False,
    maps: bool = False,
  ) -> Encoded:
    """Runs all layers.

    Args:
      x: [B, M, D]; where: [B, M] bool, real keys; full: [B, M, M] or [B, heads, M, M].
      read: [B, P] int32, the places whose last state is wanted; None: all. The last
        layer then runs for these alone, which saves three quarters of it.
      hidden, maps: whether to return the states and attention maps of every layer; not
        with `read`.
    """
    if self.remat not in REMAT:
      raise ValueError(f"remat {self.remat!r}; known: {', '.join(REMAT)}.")
    make = functools.partial(
      Block,
      self.num_heads,
      self.mlp_dim,
      self.dropout,
      self.attention_dropout,
      self.eps,
      self.act,
      self.dtype,
      self.implementation,
    )
    # Outside of a loop the compiler would keep what it is to compute again.
    few = self.depth <= FEW and self.remat == "none"
    unroll = self.unroll or (self.depth if few else 1)
    if read is not None and not self.is_initializing():
      if hidden or maps:
        raise ValueError("states and maps of every layer are not given with `read`.")
      return Encoded(self._read(make(parent=None), x, where, full, read, unroll, train))
    block = make(name="layers")

    def body(block, x, _):
      out = block(x, where, full, train=train, maps=maps)
      return out.x, (out.x if hidden else None, out.maps)

    if self.remat != "none":
      body = nn.remat(body, policy=REMAT[self.remat], prevent_cse=False)
    scan = nn.scan(
      body,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      length=self.depth,
      unroll=unroll,
      metadata_params={nn.PARTITION_NAME: "layers"},
    )
    x, (states, seen) = scan(block, x.astype(self.dtype), None)
    return Encoded(x, states, seen)

  def _read(self, block, x, where, full, read, unroll, train):
    """The last states of some places: [B, P, D]."""
    params = nn.unbox(self.variables["params"]["layers"])
    # One split, so that its gradient is one concatenation.
    leaves, tree = jax.tree.flatten(params)
    cut = [jnp.split(p, [self.depth - 1]) for p in leaves]
    rest = tree.unflatten([p for p, _ in cut])
    last = tree.unflatten([p[0] for _, p in cut])
    keys = None
    if train and max(self.dropout, self.attention_dropout or 0) > 0:
      keys = jax.random.split(self.make_rng("dropout"), self.depth)

    def layer(params, key, x, read):
      rngs = None if key is None else {"dropout": key}
      given = dict(read=read, train=train, rngs=rngs)
      return block.apply({"params": params}, x, where, full, **given).x

    if self.remat != "none":
      layer = jax.checkpoint(layer, policy=REMAT[self.remat], prevent_cse=False)
    x = x.astype(self.dtype)
    if self.depth > 1:
      body = lambda x, given: (layer(*given, x, None), None)
      given = rest, None if keys is None else keys[:-1]
      x, _ = jax.lax.scan(body, x, given, unroll=min(unroll, self.depth - 1))
    return layer(last, None if keys is None else keys[-1], x, read)
