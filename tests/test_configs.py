"""Every config: the whole train step at full size by shapes; runlocal steps."""

import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from vlp_jax import optim, resolve, sharding, train
from vlp_jax import settings as settings_lib
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.vocab import Vocab

BERT = Vocab(28_996, 0, 100, 101, 102, 103, (0, 100, 101, 102, 103), (106, 28_996))
WORDS, MMV = Vocab(66_250), Vocab(65_536)
UNCASED = Vocab(30_522, 0, 100, 101, 102, 103, (0, 100, 101, 102, 103), (999, 30_522))
FILES = sorted(
  p.relative_to(helpers.ROOT).as_posix()
  for p in (helpers.ROOT / "configs").rglob("*.py")
  if p.name not in ("__init__.py", "common.py")
)
# config -> (vocabulary, published number of parameters)
PUBLISHED = {
  "configs/bert/pretrain.py": (UNCASED, 110_106_428),
  "configs/bert/pretrain.py:variant=large": (UNCASED, 336_226_108),
  "configs/bert/lm.py": (UNCASED, 110_106_428 - 1_538),  # without next sentences
  "configs/cbt/anticipate.py": (UNCASED, None),
  "configs/cbt/pretrain.py": (UNCASED, None),
  # BERT-large, [>], 20,736 tokens of width 1024 and their bias.
  "configs/videobert/pretrain.py": (UNCASED, 336_226_108 + 1_024 + 20_736 * 1_025),
  "configs/mil_nce/howto100m.py": (WORDS, 31_211_336),
  "configs/mmv/fac.py": (MMV, 57_509_968),
  "configs/mmv/fac.py:variant=tsm_resnet_x2": (MMV, 143_828_544),
  "configs/mmv/shared.py": (MMV, 55_804_496),
  "configs/mmv/disjoint.py": (MMV, 58_691_664),
  "configs/uniter/pretrain.py": (BERT, 112_938_887),
  "configs/uniter/pretrain.py:variant=large": (BERT, 340_524_935),
}


def load(path):
  file, _, arg = path.partition(":")
  spec = importlib.util.spec_from_file_location("config", helpers.ROOT / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return settings_lib.load(module.get_config(arg or None))


def test_every_config_is_tested_and_says_how_to_run_it():
  for path in FILES:
    text = (helpers.ROOT / path).read_text()
    assert "Command:" in text, path
    assert ("Paper:" in text) or ("Expected:" in text), path


def full_batch(model, rows):
  """Shapes of a batch with `rows` rows, as large as the model's spec says."""
  of = lambda s: jax.ShapeDtypeStruct((rows, *s.shape[1:]), s.dtype)
  batch = {k: of(s) for k, s in model.spec().items() if not k.startswith("text_delta")}
  batch["example_id"] = jax.ShapeDtypeStruct((rows,), jnp.int32)
  batch["group_id"] = batch["example_id"]
  batch["example_mask"] = jax.ShapeDtypeStruct((rows,), jnp.bool_)
  return batch


FORMS = (
  "configs/bert/pretrain.py:variant=large",
  "configs/cbt/anticipate.py:end_to_end",
  "configs/cbt/pretrain.py:stage=2",
  "configs/uniter/pretrain.py:variant=large",
  "configs/mmv/fac.py:variant=tsm_resnet_x2",
  "configs/quickstart.py:fac",
)


@pytest.mark.parametrize("path", [*FILES, *FORMS])
def test_the_whole_step_at_full_size_by_shapes(path):
  s = load(path)
  vocab, count = PUBLISHED.get(path, (BERT if "uniter" in path else WORDS, None))
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  model, mesh = (
    resolve.model(s.model, inject=inject),
    sharding.mesh(devices=jax.devices()[:1]),
  )
  tx_of = lambda p: optim.build(p, **({"total_steps": s.total_steps} | dict(s.optim)))
  _, abstract, shardings, tx = state_lib.init(model, tx_of, mesh)
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(abstract.params))
  if count is not None:
    assert sum(x.size for x in jax.tree.leaves(abstract.params)) == count
  batch = full_batch(model, 4)
  if "uniter" in path:
    drop = ("regions2", "mlm_positions", "text_delta", "regions_delta", "fuse")
    batch = {k: x for k, x in batch.items() if not k.startswith(drop)}
    probs = (4, batch["regions_mask"].shape[1], model.region_classes)
    batch["regions_probs"] = jax.ShapeDtypeStruct(probs, jnp.float16)
    batch["match"] = jax.ShapeDtypeStruct((4,), jnp.int32)
  if "configs/bert/" in path:
    batch["match"] = jax.ShapeDtypeStruct((4,), jnp.int32)
  if "anticipate" in path:
    batch["label_action"] = jax.ShapeDtypeStruct((4,), jnp.int32)
  traced = []  # tasks that differ in their data only are the same step
  for name, task in s.tasks.items():
    given = {k: v for k, v in task.items() if k not in ("input", "weight")}
    if given in traced:
      continue
    traced.append(given)
    step = step_lib.build(
      s.objective(name, inject),
      apply=state_lib.make_apply(model),
      tx=tx,
      mesh=mesh,
      shardings=shardings,
      micro=1,
    )
    out = step.eval_shape(abstract, batch, jax.random.key(0))
    same = jax.tree.map(lambda a, b: a.shape == b.shape, out[0], nn.unbox(abstract))
    assert all(jax.tree.leaves(same))
    assert "loss" in out[1]


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize(
  "path",
  [
    "configs/howto100m/pretrain.py:runlocal",
    "configs/bert/lm.py:runlocal",
    "configs/bert/pretrain.py:runlocal",
    "configs/cbt/anticipate.py:runlocal",
    "configs/cbt/anticipate.py:runlocal,end_to_end",
    "configs/cbt/pretrain.py:runlocal,stage=2",
    "configs/videobert/pretrain.py:runlocal",
    "configs/mil_nce/howto100m.py:runlocal",
    "configs/mil_nce/howto100m.py:runlocal,code",
    "configs/mmv/fac.py:runlocal",
    "configs/mmv/deflate.py:runlocal",
    "configs/uniter/pretrain.py:runlocal",
    "configs/uniter/nlvr.py:runlocal",
  ],
)
def test_runlocal_takes_real_steps(path, tmp_path):
  file, _, arg = path.partition(":")
  spec = importlib.util.spec_from_file_location("config", helpers.ROOT / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(arg)
  config.tensorboard = False
  out = train.run(config, tmp_path, devices=jax.devices()[:1])
  assert int(out.state.step) == config.total_steps
  assert int(out.state.skipped) == 0
  assert out.metrics
  assert all(np.isfinite(m["loss"]) for m in out.metrics)
  assert (tmp_path / "results.json").exists()
