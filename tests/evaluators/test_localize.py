"""Step localisation: the published alignments and recalls, exhaustive search, runs."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from tests.reference import steps as reference
from vlp_jax.evaluators import localize


def sines(shape, rate):
  return np.sin(rate * (np.arange(np.prod(shape)) + 1)).reshape(shape)


def test_published_alignments():
  _, given, want, _ = helpers.golden("crosstask")
  for i in range(7):
    cost = given[f"cost{i}"]
    for name, hyper in (
      ("one", {}),
      ("many", dict(exactly_one=False)),
      ("many_bg1", dict(exactly_one=False, background=1.0)),
    ):
      got = localize.align(cost, tight="published", **hyper)
      np.testing.assert_array_equal(
        got, want[f"assign{i}_{name}"], err_msg=f"{i} {name}"
      )


def test_published_choices_and_exhaustive_search():
  for shape, rate, chosen, total in (
    ((7, 3), 0.61, [2, 3, 5], -1.4896368872),
    ((12, 4), 0.83, [1, 3, 8, 10], -3.2817418362),
  ):
    cost = sines(shape, rate)
    found = localize.align(cost)
    assert found.argmax(axis=0).tolist() == chosen
    assert cost[found].sum() == pytest.approx(total, abs=1e-9)
  rng = np.random.default_rng(0)
  for num, k in ((3, 3), (5, 1), (6, 2), (7, 3)):
    cost = rng.normal(size=(num, k))
    assert reference.align(cost)[0] == localize.align(cost).argmax(axis=0).tolist()
  cost, background = rng.normal(size=(6, 2)), -0.2
  found = localize.align(cost, exactly_one=False, background=background)
  total = cost[found].sum() + background * (~found.any(axis=1)).sum()
  assert total == pytest.approx(reference.align_runs(cost, background))


def test_as_many_seconds_as_steps():
  cost = np.ones((3, 3))
  assert (localize.align(cost) == np.eye(3)).all()
  assert not localize.align(cost, tight="published").any()
  assert (localize.align(-cost, tight="published") == np.eye(3)).all()
  with pytest.raises(ValueError, match="'tightly'"):
    localize.align(cost, tight="tightly")


def test_no_way_assigns_nothing():
  assert not localize.align(np.zeros((2, 3))).any()
  assert not localize.align(np.full((4, 2), np.nan)).any()
  cost = np.zeros((4, 2))
  cost[3, 0] = np.nan  # where no way leads
  assert not localize.align(cost).any()
  assert not localize.align(np.full((4, 2), -np.inf)).any()


def test_infinite_costs_rule_seconds_out():
  cost = np.zeros((5, 2))
  cost[:, 0] = [np.inf, 1, 2, 3, 4]
  assert np.argwhere(localize.align(cost)).tolist() == [[1, 0], [4, 1]]
  cost[1:4, 0] = np.inf  # step 1 at the last second leaves none for step 2
  assert not localize.align(cost).any()
  rng = np.random.default_rng(0)
  for _ in range(50):
    cost = rng.normal(size=(7, 3))
    cost[rng.random(cost.shape) < 0.4] = np.inf
    chosen, total = reference.align(cost)
    found = localize.align(cost)
    assert found.any() == np.isfinite(total)
    if found.any():
      assert found.argmax(axis=0).tolist() == chosen


def test_uniform_and_annotated_seconds_and_recall():
  _, given, want, _ = helpers.golden("crosstask")
  for num, k in ((7, 3), (40, 6)):
    np.testing.assert_array_equal(localize.uniform(num, k), want[f"uniform_{num}_{k}"])
  pairs = {}
  for task in "abc":
    videos = []
    for v in range(3):  # video 3 has a prediction, but no annotation
      cost, truth = given[f"{task}{v}_cost"], given[f"{task}{v}_gt"].astype(bool)
      found = localize.align(cost)
      np.testing.assert_array_equal(found, want[f"{task}{v}_pred"])
      rows = given[f"{task}{v}_rows"]
      np.testing.assert_array_equal(localize.seconds(rows, *truth.shape), truth)
      videos.append((found, truth))
    empty = np.zeros_like(want[f"{task}3_pred"], bool)
    pairs[task] = [*videos, (want[f"{task}3_pred"].astype(bool), empty)]
  found = localize.recall(pairs | {"unseen": [(empty, empty)]})
  for task in "abc":
    assert found[task] == pytest.approx(float(want[f"recall_{task}"]), abs=1e-12)
  assert np.mean(list(found.values())) == pytest.approx(float(want["recall_mean"]))


def apply(variables, batch, *, rng=None, train=False, method=None):
  name = {"encode_clips": "clips", "encode_text": "text", "encode_video": "video"}[
    method
  ]
  return {f"{name}_embed": variables[name][batch["example_id"]]}, {}


STEPS = np.array([[0, 0], [0, 1], [0, 2], [5, 0], [5, 1]])  # task, step
TASKS, SECONDS = [0, 5, 0, 5], [7, 6, 2, 9]


def corpus(seed=0, signal=0.0):
  rng = np.random.default_rng(seed)
  text = rng.normal(size=(5, 4)).astype(np.float32)
  clips = rng.normal(size=(4, 9, 4)).astype(np.float32)
  truth = np.zeros((4, 9, 3), np.int32)
  for i, (task, num) in enumerate(zip(TASKS, SECONDS, strict=True)):
    own = np.flatnonzero(STEPS[:, 0] == task)
    for k, row in enumerate(own):
      at = (2 * k + 1) % num
      truth[i, at, k] = 1
      clips[i, at] += signal * text[row]
  truth[3, :, 0] = 0  # one step of the last video is not annotated
  return {"text": text, "clips": clips}, truth


def rows(size, total, **keys):
  out = []
  for start in range(0, total, size):
    at = np.arange(start, start + size)
    ids = np.where(at < total, at, 0).astype(np.int32)
    one = {"example_id": ids} | {k: x[ids] for k, x in keys.items()}
    out.append(
      {k: jnp.asarray(x) for k, x in (one | {"example_mask": at < total}).items()}
    )
  return out


def run(variables, truth, size=3, **hyper):
  mask = np.arange(9) < np.array(SECONDS)[:, None]
  task = np.array(TASKS, np.int32)
  videos = rows(size, 4, label_task=task, label_steps=truth, clips_mask=mask)
  labels = STEPS.astype(np.int32)
  order = np.array([3, 0, 2, 1, 4])  # steps may come in any order
  steps = rows(size, 5, label_task=labels[order, 0], label_step=labels[order, 1])
  shuffled = variables | {"text": variables["text"][order]}
  evaluator = localize.Evaluator(apply, videos, steps, **hyper)
  return dict(evaluator.run(shuffled))["step_recall"]


def oracle(variables, truth):
  found = {}
  for i, (task, num) in enumerate(zip(TASKS, SECONDS, strict=True)):
    own = variables["text"][STEPS[:, 0] == task]
    k = len(own)
    right = total = 0
    if num >= k:
      scores = np.exp(variables["clips"][i, :num].astype(float) @ own.T)
      cost = -np.log(scores / scores.sum(axis=1, keepdims=True))
      chosen, _ = reference.align(cost)
      right = sum(truth[i, t, s] for s, t in enumerate(chosen))
    total = truth[i, :, :k].any(axis=0).sum()
    a, b = found.get(task, (0, 0))
    found[task] = a + right, b + total
  return np.mean([a / b for a, b in found.values()])


def test_evaluator_agrees_with_search_for_any_batch_size():
  for seed in range(3):
    variables, truth = corpus(seed)
    result = run(variables, truth)
    assert result.value == pytest.approx(oracle(variables, truth), abs=1e-12)
    assert result.n == 2
    assert str(run(variables, truth, size=1)) == str(result)
  assert "1 videos shorter" in result.protocol
  variables, truth = corpus(4, signal=30.0)
  found = run(variables, truth)
  assert found.value == oracle(variables, truth) > found.chance
  collapsed = {k: np.ones_like(x) for k, x in variables.items()}
  assert run(collapsed, truth).value <= found.value


def test_windows_of_frames_are_put_in_order_and_averaged():
  variables, truth = corpus(1)
  want = run(variables, truth)
  labels = STEPS.astype(np.int32)
  steps = rows(5, 5, label_task=labels[:, 0], label_step=labels[:, 1])
  video, keys = [], {k: [] for k in ("task", "second", "group", "steps")}
  for i, num in enumerate(SECONDS):
    for t in reversed(range(num)):
      for shift in (0.5, -0.5):  # two windows a second
        video.append(variables["clips"][i, t] + shift)
        for k, x in zip(keys, (TASKS[i], t, 10 + i, truth[i, t]), strict=True):
          keys[k].append(x)
  keys = {k: np.array(x, np.int32) for k, x in keys.items()}
  windows = rows(
    7,
    len(video),
    label_task=keys["task"],
    label_second=keys["second"],
    group_id=keys["group"],
    label_steps=keys["steps"],
  )
  names = dict(
    methods=("encode_video", "encode_text"), outputs=("video_embed", "text_embed")
  )
  evaluator = localize.Evaluator(apply, windows, steps, **names)
  found = dict(evaluator.run(variables | {"video": np.array(video)}))["step_recall"]
  assert found.value == want.value
  assert found.chance == want.chance


def test_scores_of_a_model_that_gives_them_itself():
  """The same as with embeddings, and steps that a task lacks take no part."""
  variables, truth = corpus(2, signal=1.0)
  want = run(variables, truth)
  logits = np.full((4, 9, 3), 50.0, np.float32)
  has = np.zeros((4, 3), bool)
  for i, task in enumerate(TASKS):
    own = variables["text"][STEPS[:, 0] == task]
    logits[i, :, : len(own)] = variables["clips"][i] @ own.T
    has[i, : len(own)] = True
  mask = np.arange(9) < np.array(SECONDS)[:, None]
  keys = dict(label_task=np.array(TASKS, np.int32), label_steps=truth)

  def scores(variables, batch, *, rng=None, train=False, method=None):
    at = batch["example_id"]
    return {"step_logits": variables[at], "step_mask": jnp.array(has)[at]}, {}

  for size in (1, 3):
    videos = rows(size, 4, clips_mask=mask, **keys)
    found = dict(localize.Logits(scores, videos).run(logits))
    assert found["step_recall"].value == want.value
    assert str(found["step_recall"]) == str(want)
  few = rows(4, 4, clips_mask=mask, **keys | {"label_steps": 0 * truth})
  with pytest.raises(ValueError, match="no video has an annotated step"):
    dict(localize.Logits(scores, few).run(logits))


def test_what_does_not_fit_is_an_error():
  variables, truth = corpus()
  many = truth.copy()
  many[1, 0, 2] = 1
  with pytest.raises(ValueError, match="task 5 has 2 steps"):
    run(variables, many)
  with pytest.raises(ValueError, match="no video has an annotated step"):
    run(variables, np.zeros_like(truth))
