"""Classifiers of frozen features against published values, scikit-learn and oracles."""

import numpy as np
import pytest
from sklearn import linear_model, metrics, preprocessing

from tests import helpers
from tests.reference import classifiers as reference
from vlp_jax.errors import UserError
from vlp_jax.evaluators import classifiers, folds, multi_label
from vlp_jax.evaluators.classifiers import device, scaling

SVMS = ("svm", "svm_device")


def planes(fitted, width):
  """(weights [K, D], biases [K]) of a linear classifier, from what it says."""
  bias = fitted.scores(np.zeros((1, width)))[0]
  return (fitted.scores(np.eye(width)) - bias).T, bias


def fit(name, x, y, num_classes, **more):
  if name == "svm":
    more = dict(tol=1e-8, max_iter=100_000) | more
  return classifiers.fit(name, x, y, num_classes=num_classes, **more)


@pytest.mark.parametrize("name", SVMS)
def test_svm_agrees_with_the_golden_file(name):
  _, given, want, _ = helpers.golden("linear_svm")
  x, y, test = given["train_x"], given["train_y"], given["test_x"]
  scaled = preprocessing.StandardScaler().fit_transform(x.astype(np.float64))
  mean, deviation = x.mean(0, dtype=np.float64), x.std(0, dtype=np.float64)
  sign = np.where(y == 0, 1, -1)
  for c in (0.001, 0.003, 0.01, 0.1, 1.0):
    for how, rows in (("raw", x), ("scaled", scaled)):
      fitted = fit(name, x, y, 6, c=c, scale=how == "scaled")
      weight, bias = planes(fitted, x.shape[1])
      if how == "scaled":
        weight, bias = weight * deviation, fitted.scores(mean[None])[0]
      key = f"{c:g}_{how}"
      objective = reference.svm_objective(weight[0], bias[0], rows, sign, c)
      np.testing.assert_allclose(objective, want[f"{key}/objective_class0"], rtol=1e-6)
      scores = fitted.scores(test.reshape(-1, x.shape[1])).reshape(*test.shape[:2], 6)
      truth = given["test_y"]
      assert (scores.argmax(2) == truth[:, None]).mean() == want[f"{key}/acc_clip"]
      assert (scores.mean(1).argmax(1) == truth).mean() == want[f"{key}/acc_video"]
      close = dict(atol=2e-3 if name == "svm" else 5e-3)
      np.testing.assert_allclose(scores.mean(1), want[f"{key}/video_scores"], **close)
      assert not fitted.stopped


@pytest.mark.parametrize("name", SVMS)
def test_svm_agrees_with_the_published_check(name):
  x, y = reference.section_19()
  x = scaling.Scaler.of(x)(x)
  cases = {
    1e-3: ((-0.00502, -0.00530, -0.00389, -0.03722), -0.01527, 0.7917),
    1.0: ((-0.00657, -0.04078, -0.01289, -1.45900), -0.85881, 1.0),
  }
  for c, (want, offset, right) in cases.items():
    fitted = fit(name, x, y, 3, c=c, scale=False)
    weight, bias = planes(fitted, 4)
    np.testing.assert_allclose(weight[0], want, atol=3e-5)
    np.testing.assert_allclose(bias[0], offset, atol=3e-5)
    assert (fitted.scores(x).argmax(1) == y).mean() == pytest.approx(right, abs=5e-5)


def test_the_device_solves_what_scikit_learn_solves():
  rng = np.random.default_rng(0)
  y = rng.integers(0, 4, 90)
  x = rng.normal(size=(90, 6)) + np.eye(6)[y]
  theirs = linear_model.LogisticRegression(C=0.3, tol=1e-8, max_iter=10_000)
  z = preprocessing.StandardScaler().fit_transform(x)
  want = theirs.fit(z, y).predict_proba(z)
  for name in ("logistic", "logistic_device"):
    scores = classifiers.fit(name, x, y, num_classes=5, c=0.3).scores(x)
    assert np.isneginf(scores[:, 4]).all()  # a class without a row
    got = np.exp(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))
    np.testing.assert_allclose(got[:, :4], want, atol=3e-4)
  hot = np.stack([y == 0, y > 1, y == 3], axis=1).astype(np.float32)
  for one in ("svm", "logistic"):
    pair = [
      classifiers.fit(name, x, hot, num_classes=3, c=0.3).scores(x)
      for name in (one, f"{one}_device")
    ]
    np.testing.assert_allclose(*pair, atol=3e-3)


@pytest.mark.multidevice
def test_the_device_solver_does_not_depend_on_the_number_of_devices(monkeypatch):
  x, y = reference.section_19()
  found = []
  for share in (24, 12):  # one device, two devices
    monkeypatch.setattr(device, "SHARE", share)
    found.append(classifiers.fit("svm_device", x, y, num_classes=3, c=0.1).scores(x))
  np.testing.assert_allclose(*found, atol=1e-4)


def test_a_solver_that_is_stopped_says_so():
  x, y = reference.section_19()
  for name in SVMS:
    more = dict(c=100.0, max_iter=2)
    fitted = classifiers.fit(name, x, y, num_classes=3, **more)
    assert fitted.stopped == "stopped at 2 iterations"


def test_scaler_is_scikit_learns():
  x = np.random.default_rng(1).normal(3, 5, (50, 4)).astype(np.float32)
  x[:, 2] = 0.1  # constant: a variance of rounding errors
  want = preprocessing.StandardScaler().fit_transform(x.astype(np.float64))
  np.testing.assert_allclose(scaling.Scaler.of(x)(x), want, atol=1e-12)


def test_mlp_learns_what_no_plane_parts():
  rng = np.random.default_rng(2)
  x = rng.normal(size=(400, 2))
  y = (x[:, 0] * x[:, 1] > 0).astype(int)
  small = dict(hidden=16, dropout=0.1, lr=0.02, epochs=30, rows=50)
  scores = classifiers.fit("mlp", x, y, num_classes=2, **small).scores(x)
  np.testing.assert_allclose(np.exp(scores).sum(1), 1.0, atol=1e-5)
  assert (scores.argmax(1) == y).mean() > 0.9
  assert (
    classifiers.fit("svm", x, y, num_classes=2).scores(x).argmax(1) == y
  ).mean() < 0.7
  hot = np.stack([y, 1 - y, x[:, 0] > 0], axis=1).astype(np.float32)
  scores = classifiers.fit("mlp", x, hot, num_classes=3, **small).scores(x)
  assert ((scores > 0) == hot).mean() > 0.9
  again = classifiers.fit("mlp", x, hot, num_classes=3, **small).scores(x)
  np.testing.assert_array_equal(scores, again)


def test_neighbours_vote_as_the_formula_says():
  rng = np.random.default_rng(3)
  known, x, y = (
    rng.normal(size=(30, 5)),
    rng.normal(size=(7, 5)),
    rng.integers(0, 3, 30),
  )
  got = classifiers.fit("knn", known, y, num_classes=3, k=4, tau=0.1).scores(x)
  want = reference.neighbours(x, known, y, 3, 4, 0.1)
  np.testing.assert_allclose(got, want, atol=1e-5)
  votes = classifiers.fit("knn", known, y, num_classes=3, k=4, tau=None).scores(x)
  np.testing.assert_allclose(votes * 4, np.round(votes * 4), atol=1e-5)


def test_scores_of_several_labels():
  rng = np.random.default_rng(4)
  scores = rng.integers(0, 6, (40, 5)).astype(float)  # many ties
  truth = rng.random((40, 5)) < (0.1, 0.3, 0.5, 0.7, 0.9)
  for k in range(5):
    pair = scores[:, k], truth[:, k]
    want = reference.average_precision(*pair)
    assert multi_label.average_precision(*pair) == pytest.approx(want, abs=1e-12)
    theirs = metrics.average_precision_score(truth[:, k], scores[:, k])
    assert want == pytest.approx(theirs, abs=1e-12)
    assert multi_label.auc(*pair) == pytest.approx(reference.auc(*pair), abs=1e-12)
    theirs = metrics.roc_auc_score(truth[:, k], scores[:, k])
    assert multi_label.auc(*pair) == pytest.approx(theirs, abs=1e-12)
  # Published: d'(0.95) = 2.3262, d'(0.971) = 2.6809.
  assert multi_label.d_prime(0.95) == pytest.approx(2.3262, abs=5e-5)
  assert multi_label.d_prime(0.971) == pytest.approx(2.6809, abs=5e-5)
  assert multi_label.d_prime(0.8) == pytest.approx(2**0.5 * reference.quantile(0.8))


def test_means_over_classes_leave_out_what_has_no_positive():
  scores = np.array(
    [[0.9, 0.1, 0.5], [0.2, 0.8, 0.4], [0.4, 0.3, 0.9], [0.1, 0.2, 0.0]]
  )
  truth = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0], [0, 1, 0]])
  found = dict(multi_label.results(scores, truth, "given"))
  areas = [0.75, 1 / 3]  # of classes 0 and 1
  assert found["AUC"].value == pytest.approx(np.mean(areas))
  want = [reference.average_precision(scores[:, k], truth[:, k]) for k in (0, 1)]
  assert found["mAP"].value == pytest.approx(np.mean(want))
  apart = [2**0.5 * reference.quantile(a) for a in areas]
  assert found["d_prime"].value == pytest.approx(np.mean(apart))
  one = 2**0.5 * reference.quantile(np.mean(areas))
  assert found["d_prime_of_mean_auc"].value == pytest.approx(one)
  assert found["mAP"].n == 4
  assert "2 of 3 classes" in found["mAP"].protocol
  perfect = dict(multi_label.results(truth[:, :1] * 1.0, truth[:, :1], "given"))
  assert perfect["mAP"].value == 1
  assert np.isfinite(perfect["d_prime"].value)
  with pytest.raises(ValueError, match="no class has clips with and without"):
    dict(multi_label.results(scores, np.zeros_like(truth), "given"))


def test_folds_keep_recordings_together():
  fold, clip = np.array([1, 1, 2, 2, 3]), np.array([0, 0, 1, 1, 2])
  found = list(folds.leave_one_out(fold, clip))
  assert [v for v, _ in found] == [1, 2, 3]
  assert found[1][1].tolist() == [False, False, True, True, False]
  with pytest.raises(ValueError, match=r"group 0 straddles folds \[1, 2\]"):
    list(folds.leave_one_out(fold, np.array([0, 0, 0, 1, 2])))
  with pytest.raises(ValueError, match="1 rows are in no fold"):
    list(folds.leave_one_out(np.array([1, -1])))
  with pytest.raises(ValueError, match="at least two"):
    list(folds.leave_one_out(np.array([1, 1])))
  y, group = np.arange(40) // 2 % 2, np.arange(40) // 2
  held = folds.by_group(y, group, folds=4)
  assert np.sum(held, axis=0).tolist() == [1] * 40
  for part in held:
    assert len(np.unique(group[part])) == 5
    assert not set(group[part]) & set(group[~part])


def test_names_and_keywords_are_checked():
  x, y = np.eye(4), np.array([0, 0, 1, 1])
  with pytest.raises(UserError, match="Did you mean 'svm_device'"):
    classifiers.fit("svm_devise", x, y, num_classes=2)
  with pytest.raises(UserError, match="unknown key 'hiden'"):
    classifiers.fit("mlp", x, y, num_classes=2, hiden=3)
  with pytest.raises(ValueError, match="features"):
    classifiers.fit("svm", x, y[:3], num_classes=2)
