"""Every config: the whole train step at full size by shapes; runlocal steps."""

import importlib.util

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from vlp_jax import batch as batch_lib
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
  and p.parent.name != "probe"
  and "python -m launch.eval --config" not in p.read_text()  # test_zero_shot.py
)
# config -> (vocabulary, published number of parameters)
PUBLISHED = {
  "configs/bert/pretrain.py": (UNCASED, 110_106_428),
  "configs/bert/pretrain.py:variant=large": (UNCASED, 336_226_108),
  "configs/bert/lm.py": (UNCASED, 110_106_428 - 1_538),  # without next sentences
  # AVOL-Net has no two-way classifier; AVTS's sizes are ours.
  "configs/audio_visual/l3.py": (WORDS, 9_508_738),
  "configs/audio_visual/ave.py": (WORDS, 9_541_636),
  "configs/audio_visual/avol.py": (WORDS, 9_541_634),
  # UniVL's video encoder without its pooler, and its decoder.
  "configs/captioning/youcook2.py": (UNCASED, 43_711_232 + 52_813_626),
  "configs/captioning/generated.py": (UNCASED, None),
  "configs/cbt/anticipate.py": (UNCASED, None),
  "configs/cbt/generated.py": (UNCASED, None),
  "configs/cbt/pretrain.py": (UNCASED, None),
  "configs/coin/linear.py": (WORDS, 1_025 * 779),
  # BERT-large, [>], 20,736 tokens of width 1024 and their bias.
  "configs/videobert/pretrain.py": (UNCASED, 336_226_108 + 1_024 + 20_736 * 1_025),
  "configs/videobert/generated.py": (UNCASED, None),
  # R(2+1)D-18 of torchvision and a linear layer of as many classes.
  "configs/finetune/hmdb51.py": (WORDS, 31_300_125 + 51 * 513),
  "configs/finetune/ucf101.py": (WORDS, 31_300_125 + 101 * 513),
  "configs/mil_nce/howto100m.py": (WORDS, 31_211_336),
  "configs/mmv/fac.py": (MMV, 57_509_968),
  "configs/mmv/fac.py:variant=tsm_resnet_x2": (MMV, 143_828_544),
  "configs/mmv/shared.py": (MMV, 55_804_496),
  "configs/mmv/disjoint.py": (MMV, 58_691_664),
  # ResNet-50 and the heads.
  "configs/self_supervised/simclr.py": (WORDS, 23_508_032 + 4_460_672),
  "configs/self_supervised/moco.py": (WORDS, 23_508_032 + 4_458_624),
  "configs/self_supervised/moco.py:v1": (WORDS, 23_508_032 + 262_272),
  "configs/self_supervised/byol.py": (WORDS, 23_508_032 + 11_558_912),
  "configs/uniter/nlvr2.py": (BERT, 115_808_515),
  "configs/uniter/nlvr2.py:form=pair": (BERT, 109_902_594),
  "configs/uniter/nlvr2.py:form=triplet": (BERT, 109_901_058),
  "configs/uniter/vqa.py": (BERT, 115_892_281),
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
  "configs/cbt/pretrain.py:end_to_end",
  "configs/uniter/nlvr2.py:form=pair",
  "configs/uniter/nlvr2.py:form=triplet",
  "configs/uniter/pretrain.py:variant=large",
  "configs/mmv/fac.py:variant=tsm_resnet_x2",
  "configs/quickstart.py:fac",
  "configs/self_supervised/moco.py:v1",
)


SMALL = [f for f in FILES if ":generated" in (helpers.ROOT / f).read_text()]


def test_small_forms_train_and_their_baselines_learn_nothing():
  assert len(SMALL) >= 12
  for path in SMALL:
    s = load(f"{path}:generated")
    assert s.input["dir"].startswith("runs/")
    assert s.optim["lr"] > 0
    assert s.evals
    if "random" not in (helpers.ROOT / path).read_text() and "audio_visual" not in path:
      continue
    none = load(f"{path}:generated,random")
    assert none.optim["lr"] == 0
    assert none.total_steps < s.total_steps
    assert set(none.evals) == set(s.evals)


# Of a family that is traced in another form already: parameters alone, unless -m slow.
LIKE = (
  "configs/audio_visual/ave.py",
  "configs/audio_visual/avol.py",
  "configs/bert/lm.py",
  "configs/self_supervised/byol.py",
  "configs/self_supervised/simclr.py",
  "configs/mmv/fac.py",
  "configs/mmv/shared.py",
  "configs/mmv/disjoint.py",
  "configs/mil_nce/howto100m.py",
  "configs/finetune/hmdb51.py",
  "configs/uniter/vqa.py",
)

# Nothing of them is published, and their families are traced at full size.
QUICK = tuple(f for f in FILES if f.endswith(("/generated.py", "/deflate.py")))
QUICK += ("configs/howto100m/finetune.py",)


@pytest.mark.parametrize("path", [*LIKE, *(f for f in FORMS if f in PUBLISHED)])
def test_parameters_at_full_size(path):
  s = load(path)
  vocab, count = PUBLISHED[path]
  model = resolve.model(s.model, inject={"vocab": vocab, "vocab_size": vocab.size})
  example = batch_lib.zeros(model.spec())
  made = jax.eval_shape(model.init, jax.random.key(0), example)
  assert sum(x.size for x in jax.tree.leaves(nn.unbox(made)["params"])) == count


@pytest.mark.parametrize(
  "path",
  [
    *(f for f in FILES if f not in (*LIKE, *QUICK)),
    *(pytest.param(f, marks=pytest.mark.slow) for f in (*LIKE, *QUICK, *FORMS)),
  ],
)
def test_the_whole_step_at_full_size_by_shapes(path):
  s = load(path)
  vocab, count = PUBLISHED.get(path, (BERT if "uniter" in path else WORDS, None))
  inject = {"vocab": vocab, "vocab_size": vocab.size}
  model, mesh = (
    resolve.model(s.model, inject=inject),
    sharding.mesh(devices=jax.devices()[:1]),
  )
  tx_of = lambda p: optim.build(p, **({"total_steps": s.total_steps} | dict(s.optim)))
  _, abstract, shardings, tx = state_lib.init(model, tx_of, mesh, extra=s.extra())
  assert all(x.dtype == np.float32 for x in jax.tree.leaves(abstract.params))
  if count is not None:
    assert sum(x.size for x in jax.tree.leaves(abstract.params)) == count
  batch = full_batch(model, max(4, getattr(model, "bn_groups", 1)))
  if "uniter" in path:
    drop = ("mlm_positions", "text_delta", "regions_delta", "fuse")
    batch = {k: x for k, x in batch.items() if not k.startswith(drop)}
    answers = ((4, model.num_answers or 1), jnp.float32)
    batch["answers"] = jax.ShapeDtypeStruct(*answers)
    batch["label"] = jax.ShapeDtypeStruct((4,), jnp.int32)
    probs = (4, batch["regions_mask"].shape[1], model.region_classes)
    batch["regions_probs"] = jax.ShapeDtypeStruct(probs, jnp.float16)
    batch["match"] = jax.ShapeDtypeStruct((4,), jnp.int32)
  if "configs/bert/" in path:
    batch["match"] = jax.ShapeDtypeStruct((4,), jnp.int32)
  if "coin" in path:
    batch["label"] = jax.ShapeDtypeStruct((4, 2), jnp.int32)
  if "anticipate" in path or "finetune" in path:
    batch["label_action"] = jax.ShapeDtypeStruct((4,), jnp.int32)
  if "howto100m/finetune" in path:  # one caption a clip
    batch = {k: x for k, x in batch.items() if not k.startswith("narration")}
  if "crosstask" in path:
    for name, shape in (("steps", (4, 2)), ("constraint", (4, 3, 2))):
      batch[f"label_{name}"] = jax.ShapeDtypeStruct(shape, jnp.int32)
  if "speech" in path:
    many = "words" in path  # zeros and ones
    kind = ((4, 10), jnp.float32) if many else ((4,), jnp.int32)
    batch["label"] = jax.ShapeDtypeStruct(*kind)
  traced = []  # tasks that differ in their data only are the same step
  for name, task in s.tasks.items():
    own = set(settings_lib.TASK_KEYS) - {"objective"}
    given = {k: v for k, v in task.items() if k not in own}
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
      after_update=s.hook(),
    )
    out = step.eval_shape(abstract, batch, jax.random.key(0))
    same = jax.tree.map(lambda a, b: a.shape == b.shape, out[0], nn.unbox(abstract))
    assert all(jax.tree.leaves(same))
    assert "loss" in out[1]


@pytest.mark.usefixtures("twins")
@pytest.mark.parametrize(
  "path",
  [
    pytest.param("configs/howto100m/pretrain.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/howto100m/finetune.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/audio_visual/l3.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/audio_visual/ave.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/audio_visual/avol.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/audio_visual/avts.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/bert/lm.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/captioning/youcook2.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/captioning/generated.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/cbt/generated.py:runlocal", marks=pytest.mark.slow),
    "configs/bert/pretrain.py:runlocal",
    pytest.param(
      "configs/brave/pretrain.py:runlocal,views=both", marks=pytest.mark.slow
    ),
    pytest.param("configs/cbt/anticipate.py:runlocal", marks=pytest.mark.slow),
    pytest.param(
      "configs/cbt/anticipate.py:runlocal,end_to_end", marks=pytest.mark.slow
    ),
    pytest.param("configs/cbt/pretrain.py:runlocal,stage=2", marks=pytest.mark.slow),
    pytest.param("configs/cbt/pretrain.py:runlocal,end_to_end", marks=pytest.mark.slow),
    pytest.param(
      "configs/cbt/pretrain.py:runlocal,end_to_end,stage=2", marks=pytest.mark.slow
    ),
    pytest.param("configs/coin/linear.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/crosstask/weak.py:runlocal", marks=pytest.mark.slow),
    "configs/videobert/pretrain.py:runlocal",
    pytest.param("configs/videobert/generated.py:runlocal", marks=pytest.mark.slow),
    "configs/finetune/ucf101.py:runlocal",
    "configs/mil_nce/howto100m.py:runlocal",
    pytest.param("configs/mil_nce/howto100m.py:runlocal,code", marks=pytest.mark.slow),
    pytest.param("configs/mmv/fac.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/mmv/deflate.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/self_supervised/simclr.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/self_supervised/moco.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/self_supervised/byol.py:runlocal", marks=pytest.mark.slow),
    "configs/speech/digits.py:runlocal",
    pytest.param("configs/speech/unlabelled.py:runlocal", marks=pytest.mark.slow),
    pytest.param(
      "configs/speech/unlabelled.py:runlocal,system=random", marks=pytest.mark.slow
    ),
    pytest.param(
      "configs/speech/unlabelled.py:runlocal,system=bins", marks=pytest.mark.slow
    ),
    pytest.param("configs/speech/words.py:runlocal", marks=pytest.mark.slow),
    "configs/uniter/pretrain.py:runlocal",
    pytest.param("configs/uniter/nlvr.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/uniter/vqa.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/uniter/nlvr2.py:runlocal", marks=pytest.mark.slow),
    pytest.param("configs/uniter/nlvr2.py:runlocal,form=pair", marks=pytest.mark.slow),
    pytest.param(
      "configs/uniter/nlvr2.py:runlocal,form=triplet", marks=pytest.mark.slow
    ),
    pytest.param("configs/xdc/pretrain.py:runlocal", marks=pytest.mark.slow),
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
