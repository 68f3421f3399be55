"""A checkpoint trained on the tokens of one tree is refused with another, by name."""

import jax
import numpy as np
import pytest

from tests.test_probe_configs import load
from vlp_jax import checkpoint, cluster_tree, restore, sources, train
from vlp_jax import settings as settings_lib
from vlp_jax.errors import CheckpointError, UserError


def other(path, tree):
  """A file with another tree of the same sizes."""
  moved = tuple(c + np.float32(0.5) for c in tree.centroids)
  again = cluster_tree.Tree(moved, tree.used, tree.cosine)
  again.save(path)
  return again


def state():
  return {"params": {"kernel": np.zeros(3, np.float32)}}


@pytest.mark.usefixtures("twins")
def test_a_run_knows_its_tree_and_its_checkpoints_hold_it(tmp_path):
  config = load("configs/videobert/pretrain.py:runlocal") | dict(tensorboard=False)
  run = train.Run(config, devices=jax.devices()[:1])
  (tree,) = run.meaning["trees"].values()
  assert tree.size == 16
  given = dict(data={}, config=config)
  with checkpoint.Checkpoints(tmp_path / "a", **run.meaning) as saved:
    saved.save(1, state(), **given)
    saved.wait()
    assert saved.identities["tree"] == dict(digest=tree.digest, size=16)
  again = other(tmp_path / "tree.npz", tree)
  config["input"] = config["input"] | dict(tree=str(tmp_path / "tree.npz"))
  settings = settings_lib.load(settings_lib.with_twins(config))
  meaning = dict(vocab=run.vocab, trees=sources.trees(settings))
  assert meaning["trees"]["tree"].digest == again.digest
  look = checkpoint.Checkpoints(tmp_path / "a", read_only=True, **meaning)
  abstract = jax.eval_shape(lambda: state())
  told = f"tree of .*a/checkpoints/1 has 16 entries, sha256 {tree.digest}; .*"
  with pytest.raises(CheckpointError, match=f"{told}{again.digest}"):
    look.restore(abstract)
  with pytest.raises(CheckpointError, match="tree of"):
    restore.same_meaning(tmp_path / "a", look.identities)  # launch.eval, zero-shot
  look = checkpoint.Checkpoints(
    tmp_path / "a", read_only=True, override=True, **meaning
  )
  assert look.restore(abstract).step == 1
  same = checkpoint.Checkpoints(tmp_path / "a", read_only=True, **run.meaning)
  assert same.restore(abstract).step == 1


@pytest.mark.usefixtures("twins")
def test_a_run_refuses_a_tree_or_features_of_another_size():
  config = load("configs/videobert/pretrain.py:runlocal") | dict(init_from={})
  config["model"]["num_tokens"] = 8
  for task in ("video", "joint"):
    config["tasks"][task]["num_tokens"] = 8
  with pytest.raises(UserError, match=r"has 16 leaves \(4\^2\), model.num_tokens is 8"):
    train.Run(config, devices=jax.devices()[:1])
  config = load("configs/cbt/pretrain.py:runlocal")
  config["model"]["feature_dim"] = 17
  with pytest.raises(UserError, match=r"width 16, the model takes 17. Set model.feat"):
    train.Run(config, devices=jax.devices()[:1])


@pytest.mark.usefixtures("twins")
def test_trees_of_evaluations_count_too(tmp_path):
  config = settings_lib.with_twins(load("configs/videobert/pretrain.py:runlocal"))
  tree = cluster_tree.load(config["input"]["tree"])
  other(tmp_path / "tree.npz", tree)
  part = dict(split="test", tree=str(tmp_path / "tree.npz"))
  config["evals"] = dict(loss=dict(evaluator="loss", batches=part))
  found = sources.trees(settings_lib.load(config))
  assert list(found) == ["tree", "tree_2"]
  assert found["tree"].digest == tree.digest
  del config["evals"], config["input"]["tree"]
  assert sources.trees(settings_lib.load(config)) == {}
