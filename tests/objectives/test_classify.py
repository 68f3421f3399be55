"""Objectives of classification against loops, and what must not count."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.objectives import classify

ROWS, CLASSES, WINDOWS = 5, 4, 3


def apply(variables, batch, *, rng=None, train=False, method=None):
  assert train
  assert rng is not None
  out = {"logits": variables["logits"]}
  if "real" in variables:
    out["logits_mask"] = variables["real"]
  return out, {"kept": 1}


def batch(label, **more):
  given = dict(label=jnp.asarray(label), example_id=jnp.arange(ROWS, dtype=jnp.int32))
  return given | more


def logits(*shape, seed=0):
  return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def value(fn, variables, given, **hyper):
  terms, aux, mutable = fn(apply, variables, given, jax.random.key(0), **hyper)
  assert mutable == {"kept": 1}
  return terms["classify"], aux


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_softmax_is_the_formula(smoothing):
  x, label = logits(ROWS, CLASSES), np.array([0, 3, -1, 2, 1], np.int32)
  real = np.array([1, 1, 1, 1, 0], bool)
  given = batch(label, example_mask=jnp.asarray(real))
  term, aux = value(
    classify.softmax, {"logits": x}, given, smoothing=smoothing, top=(1, 2)
  )
  total, hits = 0.0, {1: 0, 2: 0}
  for i in (0, 1, 3):
    p = np.exp(np.asarray(x[i], np.float64))
    p /= p.sum()
    target = smoothing / CLASSES + (1 - smoothing) * np.eye(CLASSES)[label[i]]
    total -= float((target * np.log(p)).sum())
    for k in hits:
      hits[k] += label[i] in np.argsort(-p)[:k]
  np.testing.assert_allclose(term.total, total, rtol=1e-5)
  assert term.weight == 3
  for k, n in hits.items():
    assert (aux[f"accuracy@{k}"].total, aux[f"accuracy@{k}"].weight) == (n, 3)


def test_windows_answer_for_themselves():
  x = logits(ROWS, WINDOWS, CLASSES, seed=1)
  label = np.array([0, 3, -1, 2, 1], np.int32)
  real = np.ones((ROWS, WINDOWS), bool)
  real[0, 2] = real[3] = False
  term, _ = value(
    classify.softmax, {"logits": x, "real": jnp.asarray(real)}, batch(label)
  )
  logp = jax.nn.log_softmax(x)
  want = sum(
    -logp[i, n, label[i]] for i in (0, 1, 4) for n in range(WINDOWS) if real[i, n]
  )
  np.testing.assert_allclose(term.total, want, rtol=1e-5)
  assert term.weight == 8


def test_sigmoid_is_the_formula():
  x = logits(ROWS, CLASSES, seed=2)
  label = (np.random.default_rng(3).random((ROWS, CLASSES)) < 0.4).astype(np.float32)
  real = jnp.asarray([True, False, True, True, True])
  term, _ = value(classify.sigmoid, {"logits": x, "real": real}, batch(label))
  p = 1 / (1 + np.exp(-np.asarray(x, np.float64)))
  loss = -(label * np.log(p) + (1 - label) * np.log(1 - p)).mean(1)
  np.testing.assert_allclose(term.total, loss[[0, 2, 3, 4]].sum(), rtol=1e-5)
  assert term.weight == 4
  rated = np.where(np.arange(CLASSES) < np.arange(ROWS)[:, None], label, -1)
  term, _ = value(classify.sigmoid, {"logits": x, "real": real}, batch(rated))
  each = -(label * np.log(p) + (1 - label) * np.log(1 - p))
  want = sum(
    each[row, :row].mean() for row in (2, 3, 4)
  )  # row 0 has none that is rated
  np.testing.assert_allclose(term.total, want, rtol=1e-5)
  assert term.weight == 3
  many = jnp.broadcast_to(x[:, None], (ROWS, 2, CLASSES))
  both, _ = value(classify.sigmoid, {"logits": many}, batch(label))
  np.testing.assert_allclose(both.total, 2 * loss.sum(), rtol=1e-5)


def test_windows_may_have_labels_of_their_own():
  x = logits(ROWS, WINDOWS, CLASSES)
  label = np.arange(ROWS * WINDOWS).reshape(ROWS, WINDOWS) % (CLASSES + 1) - 1
  term, aux = value(classify.softmax, {"logits": x}, batch(label))
  p = np.asarray(jax.nn.softmax(x, axis=-1), np.float64)
  want = [-np.log(p[i, j, k]) for (i, j), k in np.ndenumerate(label) if k >= 0]
  np.testing.assert_allclose(term.total, sum(want), rtol=1e-5)
  assert term.weight == len(want) == aux["accuracy@1"].weight


def test_no_label_no_loss_and_no_gradient():
  def total(x):
    term, _ = value(classify.softmax, {"logits": x}, batch(np.full(ROWS, -1, np.int32)))
    return term.value

  got, gradient = jax.value_and_grad(total)(logits(ROWS, CLASSES) * 1e4)
  assert got == 0
  assert (gradient == 0).all()


def test_mistakes_are_told():
  x = {"logits": logits(ROWS, CLASSES)}
  with pytest.raises(KeyError, match="label_action"):
    value(classify.softmax, x, batch(np.zeros(ROWS, int)), label="label_action")
  with pytest.raises(ValueError, match="wants"):
    value(classify.softmax, x, batch(np.zeros((ROWS, 2))))
  with pytest.raises(ValueError, match="wants"):
    value(classify.sigmoid, x, batch(np.zeros(ROWS, int)))
