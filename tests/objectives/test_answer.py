"""Objectives of answers about images against slow loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import answers as reference
from vlp_jax.objectives import answer

KEY = jax.random.key(0)


def given(**outputs):
  """An `apply` whose outputs are the parameters."""

  def apply(variables, batch, *, rng=None, train=False, method=None):
    del batch, rng, method
    assert train
    return {k: variables["params"][k] for k in outputs}, {}

  return apply, {"params": {k: jnp.asarray(x) for k, x in outputs.items()}}


def run(fn, batch, logits, name, **hyper):
  """(loss, metrics, gradient by the logits)."""
  apply, variables = given(**{name: logits})
  rows = len(logits)
  batch = {"example_id": jnp.arange(rows)} | {
    k: jnp.asarray(v) for k, v in batch.items()
  }

  def loss(params):
    terms, aux, mutable = fn(apply, {"params": params}, batch, KEY, **hyper)
    assert mutable == {}
    (term,) = terms.values()
    return term.value, aux

  (value, aux), grads = jax.value_and_grad(loss, has_aux=True)(variables["params"])
  return float(value), {k: float(m.value) for k, m in aux.items()}, grads[name]


def test_vqa_is_summed_over_answers_and_scored_by_the_best():
  rng = np.random.default_rng(0)
  logits = rng.normal(size=(4, 5)).astype(np.float32)
  target = rng.choice([0, 0.3, 0.6, 1.0], (4, 5)).astype(np.float32)
  target[1] = 0.0  # none is known: it counts all the same
  mask = np.array([True, True, True, False])
  batch = {"answers": target, "example_mask": mask}
  value, aux, grad = run(answer.vqa, batch, logits, "answer_logits")
  want, score = reference.vqa(logits[:3], target[:3])
  assert value == pytest.approx(want, rel=1e-6)
  assert aux == {"vqa/score": pytest.approx(score, rel=1e-6)}
  assert not np.asarray(grad)[3].any()
  assert np.asarray(grad)[1].all()
  with pytest.raises(ValueError, match=r"set model\.num_answers"):
    run(answer.vqa, {"answers": target[:, :4]}, logits, "answer_logits")
  with pytest.raises(KeyError, match="answers is not in the batch"):
    run(answer.vqa, {}, logits, "answer_logits")


@pytest.mark.parametrize(
  ("fn", "name"), [(answer.nlvr2, "label_logits"), (answer.vcr, "choice_logits")]
)
def test_two_classes_leave_rows_without_a_label_out(fn, name):
  logits = np.array([[1.0, 3.0], [2.0, -1.0], [0.5, 0.5], [9.0, 1.0]], np.float32)
  label = np.array([1, 1, -1, 0], np.int32)
  mask = np.array([True, True, True, False])
  value, aux, grad = run(fn, {"label": label, "example_mask": mask}, logits, name)
  want = (np.log1p(np.exp(-2.0)) + np.log1p(np.exp(3.0))) / 2
  assert value == pytest.approx(want, rel=1e-6)
  assert list(aux.values()) == [0.5]
  assert not np.asarray(grad)[2:].any()


def test_refer_is_a_softmax_over_real_regions():
  rng = np.random.default_rng(1)
  logits = rng.normal(size=(4, 3)).astype(np.float32)
  mask = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], bool)
  label = np.array([2, 0, 0, -1], np.int32)
  batch = {"label": label, "regions_mask": mask}
  value, aux, grad = run(answer.refer, batch, logits, "region_logits")
  assert value == pytest.approx(reference.refer(logits[:3], mask[:3], label[:3]))
  hits = [
    np.where(m, x, -9e9).argmax() == y
    for x, m, y in zip(logits, mask, label, strict=True)
  ]
  assert aux["refer/accuracy"] == pytest.approx(np.mean(hits))
  assert not np.asarray(grad)[~mask].any()
  assert not np.asarray(grad)[3].any()
  assert np.isfinite(grad).all()


def test_soft_targets_are_overlaps_above_one_half():
  boxes = np.zeros((1, 3, 7), np.float32)
  boxes[0, :, :4] = [[0, 0, 0.5, 1], [0, 0, 0.4, 1], [0.3, 0, 0.9, 1]]
  box = np.array([[0, 0, 0.5, 1]], np.float32)
  over = [reference.overlap(b[:4], box[0]) for b in boxes[0]]
  assert over == pytest.approx([1.0, 0.8, 0.2 / 0.9])
  batch = {"label": np.zeros(1, np.int32), "label_box": box, "regions_boxes": boxes}
  batch["regions_mask"] = np.ones((1, 3), bool)
  logits = np.array([[0.4, -0.3, 2.0]], np.float32)
  value, _, _ = run(answer.refer, batch, logits, "region_logits", target="soft")
  want, _ = reference.vqa(logits, np.array([[1.0, 0.8, 0.0]]))
  assert value == pytest.approx(want, rel=1e-5)
  with pytest.raises(ValueError, match="target='hard'; one of best, soft"):
    run(answer.refer, batch, logits, "region_logits", target="hard")
  empty = answer.overlap(jnp.zeros((2, 4)), jnp.zeros((2, 4)))
  assert not np.asarray(empty).any()


def test_a_batch_without_a_real_row_is_zero():
  logits = np.ones((2, 2), np.float32)
  mask = np.zeros(2, bool)
  batch = {"label": np.zeros(2, np.int32), "example_mask": mask}
  value, _, grad = run(answer.nlvr2, batch, logits, "label_logits")
  assert value == 0.0
  assert not np.asarray(grad).any()


def test_packed_rows_count_each_example():
  rng = np.random.default_rng(2)
  logits = rng.normal(size=(2, 3, 4)).astype(np.float32)
  target = rng.random((2, 3, 4)).astype(np.float32)
  mask = np.array([[1, 1, 0], [1, 0, 0]], bool)
  ids = np.arange(6).reshape(2, 3)
  batch = {"answers": target, "example_mask": mask, "example_id": ids}
  value, _, _ = run(answer.vqa, batch, logits, "answer_logits")
  assert value == pytest.approx(reference.vqa(logits[mask], target[mask])[0], rel=1e-6)
