"""A plain linen version of the measured step, as a user of flax would write it.

Queries, keys and values apart, `nn.MultiHeadDotProductAttention`, a Python loop over
layers, `nn.Dropout`, `optax.adamw`, one `jax.jit`.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

EPS = 1e-12


class Layer(nn.Module):
  """A post-norm layer of BERT: [B, M, D], mask [B, 1, 1, M]."""

  num_heads: int
  dropout: float

  @nn.compact
  def __call__(self, x, mask, train):
    drop = nn.Dropout(self.dropout, deterministic=not train)
    y = nn.MultiHeadDotProductAttention(
      self.num_heads, dropout_rate=self.dropout, deterministic=not train
    )(x, x, mask=mask)
    x = nn.LayerNorm(EPS)(x + drop(y))
    y = nn.Dense(4 * x.shape[-1])(x)
    y = nn.Dense(x.shape[-1])(nn.gelu(y, approximate=False))
    return nn.LayerNorm(EPS)(x + drop(y))


class Net(nn.Module):
  """Words and regions in one sequence; logits [B, 2] of the first word's state."""

  size: Any

  @nn.compact
  def __call__(self, batch, train=False):
    s, drop = self.size, nn.Dropout(self.size.dropout, deterministic=not train)
    kinds = nn.Embed(2, s.width)
    ids = batch["text_ids"]
    words = nn.Embed(s.vocab_size, s.width)(ids)
    words = words + nn.Embed(512, s.width)(jnp.arange(ids.shape[1])) + kinds(0 * ids)
    words = drop(nn.LayerNorm(EPS)(words))
    seen = nn.LayerNorm(EPS)(nn.Dense(s.width)(batch["regions_features"]))
    seen = seen + nn.LayerNorm(EPS)(nn.Dense(s.width)(batch["regions_boxes"]))
    seen = seen + kinds(jnp.ones(seen.shape[:2], jnp.int32))
    seen = drop(nn.LayerNorm(EPS)(seen))
    x = jnp.concatenate([words, seen], axis=1)
    mask = jnp.concatenate([batch["text_mask"], batch["regions_mask"]], axis=1)
    for _ in range(s.depth):
      x = Layer(s.num_heads, s.dropout)(x, mask[:, None, None], train)
    return nn.Dense(2)(nn.tanh(nn.Dense(s.width)(x[:, 0])))


def build(size: Any, batch: dict) -> Callable[[int], None]:
  """`run(steps)`: takes steps on the batch and waits for the last."""
  net, tx = Net(size), optax.adamw(1e-4, weight_decay=0.01)
  batch = jax.device_put(batch)
  params = net.init(jax.random.key(0), batch)
  held = {"params": params, "opt": tx.init(params), "key": jax.random.key(1)}

  @jax.jit
  def step(params, opt, key):
    key, drop_key = jax.random.split(key)

    def loss_fn(params):
      logits = net.apply(params, batch, train=True, rngs={"dropout": drop_key})
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, batch["match"]
      ).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt = tx.update(grads, opt, params)
    return optax.apply_updates(params, updates), opt, key, loss

  def run(steps: int = 1) -> None:
    for _ in range(steps):
      held["params"], held["opt"], held["key"], loss = step(**held)
    jax.block_until_ready(loss)

  return run
