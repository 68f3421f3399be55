"""Soft accuracy of VQA; accuracy and consistency of NLVR2: worked by hand."""

import numpy as np
import pytest

from data_pipelines.prepare import nlvr2 as prepare
from vlp_jax.evaluators import nlvr2, vqa

NAN = float("nan")


def given(variables, batch, *, rng=None, train=False, method=None):
  """A model that returns what the batch holds."""
  return {k.removeprefix("out_"): x for k, x in batch.items() if "out_" in k}, {}


def cut(rows, size):
  """Batches of `size` rows; the last is filled with padding that would be right."""
  num = len(next(iter(rows.values())))
  out = []
  for first in range(0, num, size):
    at = np.arange(first, first + size)
    real = at < num
    out.append({k: x[np.where(real, at, 0)] for k, x in rows.items()})
    out[-1]["example_mask"] = real
  return out


def results(evaluator):
  return dict(evaluator.run({}))


ANSWERS = np.array(
  [[1, 0.3, 0], [0, 0.6, 0.6], [0, 0, 0], [0.9, 0, 1], [1, 1, 0], [1, 0, 0]],
  np.float32,
)
LOGITS = np.array(
  [[2, 1, 0], [0, 1, 5], [9, 0, 0], [3, 3, -1], [-4, -4, -5], [NAN, 0, 0]], np.float32
)
SCORES = [1, 0.6, 0, 0, 1, 0]  # a tie gives the worse of two; NaN says nothing


@pytest.mark.parametrize("size", [1, 4, 6])
def test_vqa_by_hand(size):
  rows = cut({"answers": ANSWERS, "out_answer_logits": LOGITS}, size)
  (found,) = results(vqa.Evaluator(given, rows)).values()
  assert found.value == pytest.approx(np.mean(SCORES), rel=1e-6)
  assert found.n == 6
  assert found.chance == pytest.approx(ANSWERS.mean(), rel=1e-6)


def test_vqa_of_another_list_is_refused():
  rows = cut({"answers": ANSWERS[:, :2], "out_answer_logits": LOGITS}, 2)
  with pytest.raises(ValueError, match=r"set model\.num_answers"):
    results(vqa.Evaluator(given, rows))


LABEL = np.array([1, 0, 1, 0, 1, 0, -1], np.int32)
PAIR = np.array([[0, 1], [2, 1], [0, 3], [0, 3], [1, 1], [NAN, 0], [0, 1]], np.float32)
SENTENCE = np.array([0, 0, 7, 7, 3, 4, 9], np.int32)


@pytest.mark.parametrize("size", [2, 7])
def test_nlvr2_by_hand(size):
  every = {"label": LABEL, "out_label_logits": PAIR, "label_sentence": SENTENCE}
  found = results(nlvr2.Evaluator(given, cut(every, size)))
  accuracy, consistency = found["accuracy"], found["consistency"]
  assert (accuracy.value, accuracy.n, accuracy.chance) == (3 / 6, 6, 0.5)
  # Sentence 0 is right of both its pairs; 7 of one; 3 and 4 of none.
  assert (consistency.value, consistency.n) == (1 / 4, 4)
  assert consistency.chance == pytest.approx((1 / 4 + 1 / 4 + 1 / 2 + 1 / 2) / 4)
  assert "1 to 2 pairs" in consistency.protocol


def test_nlvr2_without_sentences_says_what_to_do():
  rows = cut({"label": LABEL, "out_label_logits": PAIR}, 7)
  with pytest.raises(ValueError, match="prepare the data again"):
    results(nlvr2.Evaluator(given, rows))
  assert set(results(nlvr2.Evaluator(given, rows, sentence=""))) == {"accuracy"}
  bad = nlvr2.Evaluator(given, [rows[0] | {"label": LABEL + 2}], sentence="")
  with pytest.raises(ValueError, match="0 or 1"):
    results(bad)


def test_sentences_are_known_by_their_identifiers():
  """As in the official script: the third part, the pair of images, is left out."""
  same = [prepare.sentence(f"dev-896-{pair}-1") for pair in range(3)]
  assert same == ["dev-896-1"] * 3
  assert prepare.sentence("dev-896-0-0") != prepare.sentence("dev-896-0-1")
