"""Linear probes on features whose answer is known."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.errors import UserError
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


def plain(variables, batch, *, rng=None, train=False, method=None):
  return batch, {}


def rows(clips, windows, *, seed, signal=4.0):
  """As `features`, in the form of stored features: three folds of a third each."""
  given = {k: np.asarray(x) for k, x in features(clips, windows, seed=seed).items()}
  x = given.pop("clips_features")[:, 0]
  given["video_features"] = x * np.where(np.arange(WIDTH) < CLASSES, signal / 4, 1)
  given["label_fold"] = given["group_id"] // CLASSES % 3 + 1
  return given


GIVEN = dict(labels=("action",), method=None, classifier="svm", cs=(0.01,))


def test_folds_are_left_out_one_after_another():
  train, test = rows(36, 2, seed=0), rows(36, 3, seed=1)
  probe = linear_probe.Evaluator(plain, [train], [test], **GIVEN, by="fold")
  found = dict(probe.run({}))
  names = [f"probe_action/fold_{k}" for k in (1, 2, 3)]
  assert list(found) == ["probe_action", *names]
  assert found["probe_action"].n == 36
  each = [found[k].value for k in names]
  assert found["probe_action"].value == pytest.approx(np.mean(each))
  assert found["probe_action"].ci < min(found[k].ci for k in names)
  # By hand: training windows of two folds against the third.
  take = lambda out, keep: (
    out["video_features"][keep],
    out["label_action"][keep],
    out["group_id"][keep],
  )
  for k in (1, 2, 3):
    some, held = train["label_fold"] != k, test["label_fold"] == k
    one = linear_probe.probe(
      take(train, some), take(test, held), classifier="svm", cs=(0.01,)
    )
    assert one.value == found[f"probe_action/fold_{k}"].value
  made = probe.predictions_made
  assert sorted(one["clip"] for one in made) == list(range(36))
  assert {one["fold"] for one in made} == {1, 2, 3}
  assert made[0]["label"] in range(CLASSES)
  assert sorted(made[0]["predicted"]) == list(range(CLASSES))
  # Windows of a training clip in another fold than its test windows: refused.
  moved = train | {"label_fold": train["label_fold"] % 3 + 1}
  with pytest.raises(ValueError, match="straddles folds"):
    dict(linear_probe.Evaluator(plain, [moved], [test], **GIVEN, by="fold").run({}))


def test_c_is_chosen_without_the_test_set():
  train, test = rows(36, 2, seed=2, signal=1.0), rows(36, 1, seed=3)
  given = GIVEN | dict(cs=(1e-6, 0.1))
  for choose in ("", "fold"):
    run = lambda test, choose=choose: dict(
      linear_probe.Evaluator(plain, [train], [test], **given, choose_by=choose).run({})
    )["probe_action"]
    told = run(test).protocol
    assert ("leaving out one of 3 folds" if choose else "by 4 folds") in told
    # Wrong labels of the test set change the figure, not the choice.
    wrong = test | {"label_action": (test["label_action"] + 1) % CLASSES}
    assert run(wrong).protocol.split(", ")[1] == told.split(", ")[1]


def test_windows_are_averaged_before_the_best_class_is_taken():
  train = rows(36, 1, seed=4)
  one = {k: x[:1] for k, x in rows(3, 1, seed=5).items()}
  x = np.zeros((3, WIDTH), np.float32)
  x[0, 0], x[1, 1], x[2, 1] = 40.0, 5.0, 5.0  # two of three windows are for class 1
  test = {k: np.repeat(v, 3, axis=0) for k, v in one.items()} | {"video_features": x}
  found = dict(linear_probe.Evaluator(plain, [train], [test], **GIVEN).run({}))
  assert found["probe_action"].value == 1
  assert found["probe_action"].n == 1


def test_top_k_counts_ties_against_us():
  train, test = rows(36, 1, seed=6), rows(36, 1, seed=7)
  given = GIVEN | dict(ks=(1, 2, 5))
  found = dict(linear_probe.Evaluator(plain, [train], [test], **given).run({}))
  assert list(found) == ["probe_action", "probe_action@2", "probe_action@5"]
  assert found["probe_action@5"].value == found["probe_action@5"].chance == 1
  assert found["probe_action@2"].chance == pytest.approx(2 / 3)
  assert found["probe_action"].value <= found["probe_action@2"].value
  flat = {k: v for k, v in train.items()} | {
    "video_features": np.ones((36, WIDTH), "f")
  }
  level = test | {"video_features": np.ones((36, WIDTH), "f")}
  found = dict(linear_probe.Evaluator(plain, [flat], [level], **given).run({}))
  assert found["probe_action@2"].value == 0  # a collapsed model


def test_several_labels_a_clip():
  train, test = rows(36, 2, seed=8), rows(30, 3, seed=9)
  for given in (train, test):
    hot = np.eye(CLASSES, dtype=np.float32)[given.pop("label_action")]
    given["label"] = np.maximum(
      hot, np.roll(hot, 1, axis=1) * (given["label_fold"] == 1)[:, None]
    )
  given = GIVEN | dict(labels=("label",))
  probe = linear_probe.Evaluator(plain, [train], [test], **given)
  found = dict(probe.run({}))
  names = ("mAP", "AUC", "d_prime", "d_prime_of_mean_auc")
  assert list(found) == [f"probe_{name}" for name in names]
  assert found["probe_mAP"].n == 30  # clips
  assert found["probe_mAP"].value > 0.7 > found["probe_mAP"].chance
  assert isinstance(probe.predictions_made[0]["label"], list)


def test_the_mean_of_three_splits():
  sets = {
    f"{name}_{k}": [rows(24, 1, seed=10 * k + n, signal=1.5)]
    for k in (1, 2, 3)
    for n, name in enumerate(("train", "test"))
  }
  probe = linear_probe.Splits(plain, **sets, **GIVEN)
  found = dict(probe.run({}))
  names = [f"probe_action/split_{k}" for k in (1, 2, 3)]
  assert list(found) == ["probe_action", *names]
  each = [found[k].value for k in names]
  assert found["probe_action"].value == pytest.approx(np.mean(each))
  # The splits share clips: their mean is no surer than one of them.
  assert found["probe_action"].ci == pytest.approx(
    np.mean([found[k].ci for k in names])
  )
  assert {one["split"] for one in probe.predictions_made} == {1, 2, 3}
  with pytest.raises(UserError, match="unknown key 'clasifier'"):
    linear_probe.Splits(plain, **sets, clasifier="svm")
