"""Linear probes on features whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.evaluators import linear_probe

CLASSES, WIDTH = 3, 8


def features(clips, windows, *, seed, signal=4.0):
  """One batch of `clips * windows` rows; the class is in the first axes, with noise."""
  rng = np.random.default_rng(seed)
  label = np.repeat(np.arange(clips) % CLASSES, windows)
  x = rng.normal(size=(clips * windows, WIDTH))
  x[np.arange(len(x)), label] += signal
  group = np.repeat(np.arange(clips), windows)
  return {
    "clips_features": jnp.asarray(x[:, None], jnp.float32),
    "label_action": jnp.asarray(label, jnp.int32),
    "label_colour": jnp.asarray(group // CLASSES % 2, jnp.int32),
    "group_id": jnp.asarray(group, jnp.int32),
    "example_id": jnp.arange(len(x), dtype=jnp.int32),
  }


def apply(variables, batch, *, rng=None, train=False, method=None):
  assert method == "encode_video"
  return {"video_features": batch["clips_features"][:, 0]}, {}


@pytest.mark.parametrize("classifier", ["logistic", "svm"])
def test_probe_finds_what_is_there_and_only_that(classifier):
  train, test = features(36, 2, seed=0), features(30, 3, seed=1)
  control = [features(36, 2, seed=2, signal=0.0)], [features(30, 3, seed=3, signal=0.0)]
  evaluator = linear_probe.Evaluator(
    apply,
    [train],
    [test],
    labels=("action", "colour"),
    classifier=classifier,
    cs=(0.01, 1.0),
    control_train=control[0],
    control_test=control[1],
  )
  found = dict(evaluator.run({}))
  assert list(found) == [
    "probe_action",
    "probe_colour",
    "probe_action_shuffled",
    "probe_colour_shuffled",
  ]
  assert found["probe_action"].value > 0.9
  assert found["probe_action"].n == 30  # clips, not windows
  assert found["probe_action"].chance == pytest.approx(1 / 3)
  assert found["probe_colour"].chance == pytest.approx(0.5)
  for name in ("probe_colour", "probe_action_shuffled", "probe_colour_shuffled"):
    assert found[name].value < found[name].chance + 2 * found[name].ci
  assert found == dict(evaluator.run({}))  # nothing is drawn anew


def test_padding_and_unknown_labels_do_not_count():
  train, test = features(18, 1, seed=4), features(12, 1, seed=5)
  run = lambda *sets: dict(
    linear_probe.Evaluator(apply, [train], sets, labels=["action"], cs=(0.1, 1.0)).run(
      {}
    )
  )
  real = test | {"example_mask": jnp.ones(12, bool)}
  wrong = {k: x[1:5] for k, x in test.items()} | {"example_mask": jnp.zeros(4, bool)}
  wrong["label_action"] = wrong["label_action"] + 1
  assert run(real, wrong) == run(test)
  unknown = test | {"label_action": test["label_action"].at[:6].set(-1)}
  assert run(unknown)["probe_action"].n == 6


def test_a_class_without_training_rows_is_missed():
  x, y, group = np.eye(4), np.array([0, 0, 1, 1]), np.arange(4)
  result = linear_probe.probe(
    (x, y, group), (x[:1], np.array([2]), group[:1]), cs=(1.0,)
  )
  assert result.value == 0
  assert result.chance == pytest.approx(1 / 3)
  assert "C=1 fixed" in result.protocol


def test_wilson_agrees_with_its_published_example():
  # 1 of 10 and 0 of 20; R's binom::binom.confint(methods="wilson").
  assert linear_probe.wilson(1, 10) == pytest.approx((0.0178762, 0.4041500), abs=2e-5)
  assert linear_probe.wilson(0, 20) == pytest.approx((0.0, 0.1611252), abs=2e-5)


def test_errors_say_what_is_wrong():
  train, test = features(6, 2, seed=6), features(6, 2, seed=7)
  bad = train | {"clips_features": train["clips_features"].at[3].set(jnp.nan)}
  with pytest.raises(ValueError, match=r"not finite in 1 rows, first \[3\]"):
    dict(linear_probe.Evaluator(apply, [bad], [test], labels=["action"]).run({}))
  bad = train | {"label_action": jnp.zeros(12, jnp.int32)}
  with pytest.raises(ValueError, match="of class"):
    dict(linear_probe.Evaluator(apply, [bad], [test], labels=["action"]).run({}))
  bad = train | {"group_id": jnp.zeros(12, jnp.int32)}
  with pytest.raises(ValueError, match="different labels"):
    dict(linear_probe.Evaluator(apply, [bad], [test], labels=["action"]).run({}))
  with pytest.raises(ValueError, match="both control_train"):
    linear_probe.Evaluator(apply, [train], [test], control_train=[train])
