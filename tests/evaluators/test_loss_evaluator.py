"""The loss and top-k evaluators: exact sums, whatever the batch size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.evaluators import classify, loss
from vlp_jax.metrics import Mean, Term

ROWS = 11


def apply(variables, batch, *, rng=None, train=False, method=None):
  assert not train, "evaluation ran in training mode"
  assert rng is None, "evaluation drew dropout"
  logits = variables["table"][batch["example_id"]]
  return {"logits": logits}, {}


def noisy(apply, variables, batch, key, *, coef=1.0):
  """A masked mean with corruption by example; rows differ in their weight."""
  ids = batch["example_id"]
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
  where = jax.vmap(lambda k: jax.random.bernoulli(k, 0.6, (4,)))(keys)
  where &= batch["example_mask"][:, None]
  out, mutable = apply(variables, batch, rng=jax.random.key(0), train=True)
  terms = {
    "mlm": Term(*Mean.of(out["logits"] ** 2, where), coef=coef),
    "none": Term(*Mean.of(out["logits"], False), coef=7.0),
  }
  right = Mean.of(out["logits"] > 0, where)
  return terms, {"mlm/accuracy": right, "pooled": out["logits"]}, mutable


def batches(size, **keys):
  found = []
  for start in range(0, ROWS, size):
    ids = np.arange(start, start + size)
    real = ids < ROWS
    ids = np.where(real, ids, 0).astype(np.int32)
    part = {k: np.asarray(x)[ids] for k, x in keys.items()}
    part |= {"example_id": ids, "example_mask": real}
    found.append({k: jnp.asarray(x) for k, x in part.items()})
  return found


def table():
  return np.random.default_rng(0).normal(size=(ROWS, 4)).astype(np.float32)


def test_loss_is_exact_for_any_batch_size():
  variables = {"table": table()}
  objective = lambda *args: noisy(*args, coef=2.0)
  run = lambda size, **kw: dict(
    loss.Evaluator(apply, batches(size), objectives={"mlm": objective}, **kw).run(
      variables
    )
  )
  whole = run(ROWS)
  assert list(whole) == ["mlm/loss", "mlm", "mlm/none", "mlm/accuracy"]
  p, n = whole["mlm/accuracy"].value, whole["mlm/accuracy"].n
  assert whole["mlm/accuracy"].ci == pytest.approx(1.96 * (p * (1 - p) / n) ** 0.5)
  assert np.isnan(whole["mlm/loss"].ci)
  assert whole["mlm/loss"].value == pytest.approx(2 * whole["mlm"].value)
  assert whole["mlm/loss"].n == ROWS
  assert (whole["mlm/none"].value, whole["mlm/none"].n) == (0.0, 0)
  for size in (1, 4):
    for name, result in run(size).items():
      assert result.value == pytest.approx(whole[name].value, rel=1e-6)
      assert result.n == whole[name].n
  assert run(4) == run(4)
  assert run(4, seed=1)["mlm"].value != run(4)["mlm"].value


def test_loss_by_hand_and_each_task_has_its_set():
  variables = {"table": table()}

  def square(apply, variables, batch, key):
    out, mutable = apply(variables, batch, train=True)
    value = (out["logits"] ** 2).mean(axis=1)
    return {"square": Term(*Mean.of(value, batch["example_mask"]))}, {}, mutable

  sets = {"a": batches(4), "b": batches(4)[:1]}
  found = dict(
    loss.Evaluator(apply, sets, objectives={"a": square, "b": square}).run(variables)
  )
  assert found["a/square"].value == pytest.approx((table() ** 2).mean(), rel=1e-6)
  assert found["b/square"].value == pytest.approx((table()[:4] ** 2).mean(), rel=1e-6)
  with pytest.raises(ValueError, match="each task"):
    loss.Evaluator(apply, sets, objectives={"a": square})
  with pytest.raises(ValueError, match="no batch"):
    dict(loss.Evaluator(apply, [], objectives=square).run(variables))


def test_accuracy_at_k():
  label = np.arange(ROWS) % 4
  logits = np.zeros((ROWS, 4), np.float32)
  logits[np.arange(ROWS), label] = [1.0] * 6 + [0.0] * 4 + [np.nan]  # right, tie, NaN
  sets = batches(3, label=label.astype(np.int32))
  found = dict(classify.Evaluator(apply, sets, ks=(1, 3, 4)).run({"table": logits}))
  assert found["accuracy@1"].value == pytest.approx(6 / ROWS)
  assert found["accuracy@3"].value == pytest.approx(6 / ROWS)
  assert found["accuracy@4"].value == 1
  assert [found[f"accuracy@{k}"].chance for k in (1, 3, 4)] == [0.25, 0.75, 1.0]


def test_windows_vote():
  logits = np.array([[3.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 2]], np.float32)
  one = {
    "example_id": jnp.arange(3, dtype=jnp.int32),
    "group_id": jnp.array([5, 5, 6], jnp.int32),
    "label": jnp.array([0, 0, -1], jnp.int32),
  }
  found = dict(classify.Evaluator(apply, [one]).run({"table": logits}))
  assert found["accuracy@1"].value == 1
  assert found["accuracy@1"].n == 1
