"""Teacher forcing: the loss against numpy, its masks, its switches, its perplexity."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.evaluators import loss as loss_lib
from vlp_jax.objectives import caption
from vlp_jax.vocab import Vocab

VOCAB = Vocab(12, 0, 1, 2, 3, 4, (0, 1, 2, 3, 4), (5, 12))
B, L, KEY = 4, 6, jax.random.key(0)
LENGTHS = np.array([6, 4, 2, 0])


def rows():
  rng = np.random.default_rng(0)
  place = np.arange(L)
  ids = rng.integers(5, 12, (B, L))
  ids[:, 0] = VOCAB.cls_id
  ids[np.arange(B), np.maximum(LENGTHS - 1, 0)] = VOCAB.sep_id
  mask = place < LENGTHS[:, None]
  return {
    "text_ids": jnp.asarray(np.where(mask, ids, 0), jnp.int32),
    "text_mask": jnp.asarray(mask),
    "example_id": jnp.arange(B, dtype=jnp.int32),
    "example_mask": jnp.array([True, True, True, False]),
  }


LOGITS = jnp.asarray(np.random.default_rng(1).normal(size=(B, L - 1, VOCAB.size)) * 2)


def apply(variables, batch, *, rng=None, train=False, method=None):
  assert rng is not None or not train
  return {"caption_logits": variables[batch["example_id"]]}, {"seen": batch["text_ids"]}


@functools.partial(jax.jit, static_argnames=("smoothing", "corrupt", "pad_targets"))
def run(logits, batch, key, **switches):
  return caption.caption(apply, logits, batch, key, vocab=VOCAB, **switches)


def oracle(batch, smoothing=0.0, pads=False):
  """Sum and number of the tokens' losses, by loops."""
  total, right, count = 0.0, 0, 0
  for i, t in np.ndindex(B, L - 1):
    real = t + 1 < LENGTHS[i] or (pads and LENGTHS[i] > 0)
    if not real or not batch["example_mask"][i]:
      continue
    x = np.asarray(LOGITS[i, t], np.float64)
    logp = x - np.log(np.exp(x).sum())
    y = int(batch["text_ids"][i, t + 1])
    q = np.full(VOCAB.size, smoothing / VOCAB.size)
    q[y] += 1 - smoothing
    total, count, right = total - q @ logp, count + 1, right + (x.argmax() == y)
  return total, right, count


@pytest.mark.parametrize(
  ("smoothing", "pads"), [(0.0, False), (0.1, False), (0.1, True)]
)
def test_it_agrees_with_the_loops(smoothing, pads):
  batch = rows()
  terms, aux, _ = run(LOGITS, batch, KEY, smoothing=smoothing, pad_targets=pads)
  total, right, count = oracle(batch, smoothing, pads)
  np.testing.assert_allclose(terms["caption"].total, total, rtol=1e-5)
  assert int(terms["caption"].weight) == count
  assert int(aux["caption/accuracy"].total) == right
  np.testing.assert_allclose(
    aux["caption/nll"].total, oracle(batch, 0.0, pads)[0], rtol=1e-5
  )


def test_smoothing_has_the_right_minimum_and_bounds():
  q = np.full(4, 0.2 / 4)
  q[1] += 0.8
  best = caption.smoothed(jnp.log(jnp.asarray(q)), jnp.array(1), 0.2)
  np.testing.assert_allclose(best, -(q * np.log(q)).sum(), rtol=1e-6)
  sharp = caption.smoothed(jnp.array([0.0, 20.0, 0.0, 0.0]), jnp.array(1), 0.2)
  assert sharp > best
  with pytest.raises(ValueError, match="smoothing"):
    caption.smoothed(LOGITS[0], jnp.zeros(L - 1, jnp.int32), 1.0)
  with pytest.raises(ValueError, match="2 tokens"):
    run(LOGITS, {k: x[:, :1] if x.ndim == 2 else x for k, x in rows().items()}, KEY)


def test_padding_gets_no_gradient_and_an_empty_batch_none_at_all():
  batch = rows()

  def loss(logits, batch):
    return run(logits, batch, KEY, smoothing=0.1)[0]["caption"].value

  grad = np.asarray(jax.jit(jax.grad(loss))(LOGITS, batch))
  real = (np.arange(1, L) < LENGTHS[:, None]) & np.asarray(batch["example_mask"])[
    :, None
  ]
  assert (grad[~real] == 0).all()
  assert (np.abs(grad[real]).max(axis=-1) > 0).all()
  none = batch | {"example_mask": jnp.zeros(B, bool)}
  assert loss(LOGITS, none) == 0
  assert (np.asarray(jax.jit(jax.grad(loss))(LOGITS, none)) == 0).all()


def test_microbatches_add_up():
  batch = rows()
  whole = run(LOGITS, batch, KEY)[0]["caption"]
  parts = [
    run(LOGITS, {k: x[i : i + 2] for k, x in batch.items()}, KEY)[0]["caption"]
    for i in (0, 2)
  ]
  np.testing.assert_allclose(sum(p.total for p in parts), whole.total, rtol=1e-6)
  assert sum(p.weight for p in parts) == whole.weight


def test_corruption_changes_what_is_seen_and_not_what_is_wanted():
  batch = rows()
  plain, _, same = run(LOGITS, batch, KEY)
  np.testing.assert_array_equal(same["seen"], batch["text_ids"])
  terms, _, mutable = run(LOGITS, batch, KEY, corrupt=0.9)
  assert terms["caption"].total == plain["caption"].total  # same logits, same targets
  seen, ids = np.asarray(mutable["seen"]), np.asarray(batch["text_ids"])
  special = np.isin(ids, VOCAB.special_ids)
  np.testing.assert_array_equal(seen[special], ids[special])
  assert (seen[~special] == VOCAB.mask_id).any()
  turned = {k: x[::-1] for k, x in batch.items()}
  turned = run(LOGITS, turned, KEY, corrupt=0.9)[2]  # by example, not by place
  np.testing.assert_array_equal(turned["seen"], seen[::-1])


def test_the_loss_evaluator_tells_the_perplexity():
  batch = rows()
  fn = functools.partial(caption.caption, vocab=VOCAB)
  evaluator = loss_lib.Evaluator(apply, [batch], objectives={"caption": fn})
  out = dict(evaluator.run(LOGITS))
  total, right, count = oracle(batch)
  np.testing.assert_allclose(
    out["caption/perplexity"].value, np.exp(total / count), rtol=1e-5
  )
  assert out["caption/perplexity"].n == count
  np.testing.assert_allclose(out["caption/accuracy"].value, right / count, rtol=1e-6)
