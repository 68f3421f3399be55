"""Data that do not fit the model are told before anything compiles."""

import json

import numpy as np
import pytest

from tests.test_probe_configs import load
from vlp_jax import cluster_tree, fitting, resolve
from vlp_jax import settings as settings_lib
from vlp_jax.errors import UserError


def model(name, **fields):
  vocab = settings_lib.stand_in()
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  return resolve.model(dict(name=name, variant="mu", **fields), inject=inject)


def tree(branching, depth):
  shape = [(branching,) * (i + 1) for i in range(depth)]
  places = tuple(np.zeros((*s, 3), np.float32) for s in shape)
  return cluster_tree.Tree(places, tuple(np.ones(s, bool) for s in shape))


@pytest.mark.parametrize(
  ("name", "fields"), [("videobert", {}), ("captioner", dict(encoder="tokens"))]
)
@pytest.mark.parametrize("num", [8, 17])
def test_a_tree_of_another_size_is_refused(name, fields, num):
  own = {"tree": tree(4, 2)}
  fitting.tokens(model(name, num_tokens=16, **fields), own)
  told = rf"the tree has 16 leaves \(4\^2\), model.num_tokens is {num}\."
  with pytest.raises(UserError, match=told) as error:
    fitting.tokens(model(name, num_tokens=num, **fields), own)
  assert "\n" not in str(error.value)
  two = own | {"tree_2": tree(3, 2)}  # of an evaluation
  with pytest.raises(UserError, match="the tree has 9 leaves"):
    fitting.tokens(model(name, num_tokens=16, **fields), two)


def test_models_without_tokens_take_any_tree():
  fitting.tokens(model("captioner", num_tokens=8), {"tree": tree(4, 2)})
  fitting.tokens(model("cbt"), {"tree": tree(4, 2)})


def data(at, *widths):
  info = dict(
    kind="clip_features", features=[dict(width=w, rate_hz=1.0) for w in widths]
  )
  at.mkdir(exist_ok=True)
  (at / "dataset_info.json").write_text(json.dumps(info))
  return str(at)


SEGMENTS = dict(task="video_segments", fields=("features", "text"))
WHOLE = dict(task="clip_features", unit="clip")


@pytest.mark.parametrize(
  ("name", "fields", "given", "found"),
  [
    ("cbt", dict(feature_dim=16), SEGMENTS, None),
    ("cbt", dict(feature_dim=17), SEGMENTS, 16),
    ("cbt", dict(feature_dim=16), SEGMENTS | dict(network=1), 9),
    ("cbt", dict(feature_dim=17), SEGMENTS | dict(fields=("text",)), None),
    ("cbt", dict(feature_dim=17, video="s3d"), SEGMENTS, None),
    ("cbt", dict(feature_dim=17), dict(mixture={"a": SEGMENTS | {"rate": 1}}), 16),
    ("captioner", dict(feature_dim=17), SEGMENTS, 16),
    ("captioner", dict(feature_dim=25), WHOLE, None),
    ("captioner", dict(feature_dim=16), WHOLE, 25),
    ("captioner", dict(feature_dim=16), WHOLE | dict(tree="t.npz"), None),
    ("howto100m", dict(feature_dims=(16, 9)), WHOLE, None),
    ("howto100m", dict(feature_dims=(16, 8)), WHOLE, 25),
  ],
)
def test_features_of_another_width_are_refused(name, fields, given, found, tmp_path):
  net, given = model(name, **fields), given | dict(dir=data(tmp_path / "x", 16, 9))
  if found is None:
    fitting.width(net, "input", given)
    return
  with pytest.raises(
    UserError, match=f"has features of width {found}, the model takes"
  ):
    fitting.width(net, "input", given)


def test_all_inputs_of_a_run_are_looked_at(tmp_path):
  c = load("configs/cbt/generated.py")
  c["input"] = dict(c["input"]) | dict(dir=data(tmp_path / "x", 16))
  net = model("cbt", feature_dim=16)
  fitting.check(net, settings_lib.load(c), {})
  c["evals"]["inputs"]["test"]["dir"] = data(tmp_path / "y", 12)
  with pytest.raises(
    UserError, match=r"^evals.inputs.test.dir=.* width 12, .*takes 16"
  ):
    fitting.check(net, settings_lib.load(c), {})
  c["input"]["dir"] = data(tmp_path / "x", 11)
  with pytest.raises(UserError, match=r"^tasks.cbt.input.dir=.*Set model.feature_dim"):
    fitting.check(net, settings_lib.load(c), {})
