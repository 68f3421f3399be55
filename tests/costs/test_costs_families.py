"""Formulas of every family: published numbers, and FLOPs of the traced objective."""

import functools
import importlib.util
import math

import jax
import pytest

from tests import helpers
from tests.reference import flops as reference
from vlp_jax.costs import chips, families, job, towers
from vlp_jax.towers import (
  audio_resnet,
  audio_vgg,
  image_resnet,
  l3,
  r2plus1d,
  tsm_resnet,
)

WORDS = 200  # of the vocabularies


def slow(*case):
  return pytest.param(*case, marks=pytest.mark.slow)


@functools.cache
def made(path, **model):
  """The job of a config, with other fields of its model."""
  file, _, arg = path.partition(":")
  spec = importlib.util.spec_from_file_location("config", helpers.ROOT / file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  config = module.get_config(arg or None).to_dict()
  config["model"] |= model
  return job.build(config, chips.devices(1), vocab_size=WORDS)


def parts_of(one_job, name):
  one, family = one_job.tasks[name], families.of(one_job.model)
  return family.forward(one_job.model, one.batch, None, one.place)


@pytest.mark.parametrize(
  ("path", "tasks"),
  [
    ("configs/audio_visual/ave.py:runlocal", ["avc"]),
    slow("configs/audio_visual/avol.py:runlocal", ["avc"]),
    ("configs/audio_visual/avts.py:runlocal", ["easy", "hard"]),
    ("configs/audio_visual/l3.py:runlocal", ["avc"]),
    ("configs/bert/lm.py:runlocal", ["lm"]),
    ("configs/bert/pretrain.py:runlocal", ["bert"]),
    slow("configs/brave/pretrain.py:runlocal,views=both", ["brave"]),
    ("configs/captioning/generated.py:runlocal", ["caption"]),
    ("configs/captioning/youcook2.py:runlocal", ["caption"]),
    slow("configs/cbt/anticipate.py:runlocal,end_to_end", ["action"]),
    ("configs/cbt/pretrain.py:runlocal,stage=2,num_negatives=3", ["cbt"]),
    ("configs/crosstask/weak.py:runlocal", ["random", "weak"]),
    ("configs/finetune/ucf101.py:runlocal", ["classify"]),
    ("configs/howto100m/pretrain.py:runlocal", ["ranking"]),
    ("configs/mil_nce/howto100m.py:runlocal", ["mil_nce"]),
    slow("configs/mmv/deflate.py:runlocal", ["deflation"]),
    ("configs/mmv/disjoint.py:runlocal", ["howto100m"]),
    ("configs/mmv/fac.py:runlocal", ["audioset", "howto100m"]),
    slow("configs/mmv/shared.py:runlocal", ["howto100m"]),
    slow("configs/self_supervised/byol.py:runlocal", ["byol"]),
    ("configs/self_supervised/moco.py:runlocal", ["moco"]),
    ("configs/self_supervised/simclr.py:runlocal", ["simclr"]),
    ("configs/speech/digits.py:runlocal", ["digits"]),
    ("configs/speech/unlabelled.py:runlocal", ["simclr", "cluster"]),
    ("configs/speech/unlabelled.py:runlocal,system=bins", ["simclr"]),
    ("configs/speech/words.py:runlocal", ["words"]),
    ("configs/uniter/nlvr.py:runlocal", ["mlm"]),
    ("configs/videobert/pretrain.py:runlocal", ["joint", "text", "video"]),
    ("configs/xdc/pretrain.py:runlocal,system=mdc", ["cluster"]),
  ],
)
def test_the_forward_pass_of_each_objective_is_counted(path, tasks):
  """Against the traced loss: all that it reads, nothing that it does not."""
  one = made(path)
  for name in tasks:
    loss, args = one.loss(name)
    parts = parts_of(one, name)
    # VideoBERT's projected table appears twice in the trace and once in the program.
    assert sum(parts.values()) == pytest.approx(reference.of(loss, *args), rel=0.01)


@pytest.mark.parametrize("kind", ["pair", "paired_attn", "triplet"])
def test_nlvr2_with_two_images(kind):
  """Two sequences, or one of both images."""
  given = dict(heads=(kind,), type_vocab=3, region_dim=16, variant="mu")
  config = dict(
    model=dict(name="uniter") | given,
    vocab=dict(size=WORDS, cls_id=2, sep_id=3, mask_id=4),
    tasks=dict(nlvr2=dict(objective="answer:nlvr2")),
    input=dict(task="text_regions", rows=8, max_tokens=10, max_regions=12),
    optim=dict(name="sgd", lr=1e-3),
    total_steps=10,
  )
  config["input"]["pair"] = "joint" if kind == "triplet" else "apart"
  one = job.build(config, chips.devices(1))
  batch = one.tasks["nlvr2"].batch
  assert ("fuse_index" in batch) == (kind == "triplet")
  assert batch["regions2_features"].shape == (8, 12, 16)
  loss, args = one.loss("nlvr2")
  got = sum(parts_of(one, "nlvr2").values())
  assert got == pytest.approx(reference.of(loss, *args), rel=1e-3)


@pytest.mark.parametrize(
  ("path", "model", "rel"),
  [
    ("configs/bert/pretrain.py:runlocal", dict(remat="none"), 1e-3),
    ("configs/bert/pretrain.py:runlocal", dict(remat="dots"), 0.02),
    ("configs/bert/pretrain.py:runlocal", dict(remat="full"), 0.02),
    ("configs/captioning/youcook2.py:runlocal", dict(remat="full"), 0.02),
    ("configs/cbt/pretrain.py:runlocal,stage=2", {}, 0.02),  # BERT is frozen
    ("configs/cbt/pretrain.py:runlocal,stage=2", dict(train_text=True), 0.02),
  ],
)
def test_a_training_step_is_three_passes_and_a_frozen_part_one(path, model, rel):
  """Against the traced gradient, with what is computed twice."""
  one = made(path, **model)
  (name,) = one.tasks
  loss, args = one.loss(name)
  place, family = one.tasks[name].place, families.of(one.model)
  got = family.training(one.model, parts_of(one, name), place)
  got += family.recomputed(one.model, one.tasks[name].batch, place)
  assert got == pytest.approx(reference.of(jax.grad(loss), *args), rel=rel)


@pytest.mark.parametrize(
  "path",
  [
    "configs/xdc/pretrain.py:runlocal",
    "configs/audio_visual/avts.py:runlocal",
    "configs/mmv/fac.py:runlocal",
  ],
)
def test_what_a_video_tower_computes_again(path):
  """Gradients of strided convolutions differ by convention: only the rest counts."""
  traced = {}
  for remat in ("none", "full"):
    one = made(path, remat=remat)
    name = next(iter(one.tasks))
    loss, args = one.loss(name)
    traced[remat] = reference.of(jax.grad(loss), *args)
  place = one.tasks[name].place
  got = families.of(one.model).recomputed(one.model, one.tasks[name].batch, place)
  assert got == pytest.approx(traced["full"] - traced["none"], rel=1e-3)


def test_what_is_frozen_is_named():
  held = {
    "configs/cbt/pretrain.py:runlocal": ["text_tower", "video_tower"],
    "configs/mmv/deflate.py:runlocal": ["video"],
    "configs/self_supervised/moco.py:runlocal": ["teacher", "views", "mel"],
  }
  for path, names in held.items():
    one = made(path)
    (name,) = one.tasks
    place, family = one.tasks[name].place, families.of(one.model)
    assert list(family.frozen(one.model, place)) == names
    parts = parts_of(one, name)
    still = [k for k in parts if k in names or k.split("/")[0] in names]
    assert still or "cbt" in path  # the first stage reads no words
    want = sum(x * (1 if k in still else 3) for k, x in parts.items())
    assert family.training(one.model, parts, place) == want


# Maps of ResNet-50 at 224, and multiply-adds a place of a stage's blocks: the first
# (with its 1 x 1 still at the size before the stride), and each of the others.
STAGES = ((56, 56, 64, 64, 3), (56, 28, 256, 128, 4), (28, 14, 512, 256, 6))
STAGES += ((14, 7, 1024, 512, 3),)


def resnet50(at=lambda n: n, wide=1, channels=3):
  """FLOPs of ResNet-50 with maps of `at(n)` x `at(n)` for n at 224."""
  macs = at(112) ** 2 * 49 * channels * 64 * wide
  for before, after, width, inner, depth in STAGES:
    width, inner, out = width * wide, inner * wide, 4 * inner * wide
    first = at(before) ** 2 * width * inner
    first += at(after) ** 2 * (9 * inner * inner + inner * out + width * out)
    rest = at(after) ** 2 * (out * inner + 9 * inner * inner + inner * out)
    macs += first + (depth - 1) * rest
  return 2 * macs


def test_resnets_are_what_paper_and_pencil_say():
  flops = lambda tower, *sizes: towers.count(tower, sizes, 3).flops
  assert flops(image_resnet.ImageResNet(), 224, 224) == resnet50()
  assert resnet50() == pytest.approx(2 * 4.09e9, rel=0.002)  # as published
  for wide, published in ((1, 209e9), (2, 835e9)):
    tower = tsm_resnet.TSMResNet(width_mult=wide)
    assert flops(tower, 32, 224, 224) == 32 * resnet50(wide=wide)
    # The known figures of 32 x 200 x 200 are those of 224 by area; maps are rounded up.
    scaled = 32 * resnet50(wide=wide) * (200 / 224) ** 2
    assert scaled == pytest.approx(published, rel=0.02)
    real = 32 * resnet50(lambda n: math.ceil(n * 200 / 224), wide)
    assert flops(tower, 32, 200, 200) == real


def test_other_towers_are_what_paper_and_pencil_say():
  # R(2+1)D-18 on 16 x 112 x 112: (places, channels in, middle, out), published as 40.5
  # G multiply-adds with a middle for each convolution.
  stem = 16 * 56 * 56 * (49 * 3 * 45 + 3 * 45 * 64)
  layer1 = 4 * 16 * 56 * 56 * (9 * 64 * 144 + 3 * 144 * 64)
  macs = stem + layer1
  for width, t, n in ((128, 8, 28), (256, 4, 14), (512, 2, 7)):
    half, mid = width // 2, 27 * width * width // (12 * width)
    first = 27 * half * width // (9 * half + 3 * width)
    # The first is strided in space, then in time; a 1 x 1 x 1 shortcut beside it.
    macs += t * n * n * (2 * 9 * half * first + 3 * first * width + half * width)
    macs += 3 * t * n * n * (9 * width * mid + 3 * mid * width)
  got = towers.count(r2plus1d.R2Plus1D(), (16, 112, 112), 3)
  assert got.flops == 2 * macs == pytest.approx(2 * 40.5e9, rel=0.03)
  assert (got.places, got.features) == ((2, 7, 7), 512)
  # L3-Net on 224 x 224: pairs of convolutions at 224, 112, 56, 28.
  macs, channels = 0, 3
  for n, width in ((224, 64), (112, 128), (56, 256), (28, 512)):
    macs, channels = macs + n * n * 9 * (channels + width) * width, width
  assert towers.count(l3.L3(), (224, 224), 3).flops == 2 * macs
  # AVTS's VGG on 100 x 40, pooled to 50 x 20, 25 x 10, 12 x 5, 6 x 2.
  vgg = 4000 * 64 + 1000 * 64 * 128 + 250 * (128 + 256) * 256
  vgg = 9 * (vgg + 60 * (256 + 512) * 512 + 12 * 2 * 512 * 512) + 512 * 512
  assert towers.count(audio_vgg.AudioVGG(), (100, 40), 1).flops == 2 * vgg
  # XDC's sound network on 100 x 40, halved to 50 x 20 and on to 4 x 2.
  macs = 9 * 4000 * 16 + 1000 * (9 * (16 + 5 * 32) * 32 + 16 * 32)
  for places, width in ((25 * 10, 64), (13 * 5, 128), (7 * 3, 256), (4 * 2, 512)):
    half = width // 2
    macs += places * (9 * (half + 3 * width) * width + half * width)
  got = towers.count(audio_resnet.AudioResNet18(), (100, 40), 1)
  assert got.flops == 2 * macs


def test_transformers_are_what_paper_and_pencil_say():
  """BERT-base on 128 words with 20 predictions."""
  one = made("configs/bert/pretrain.py")
  width, rows = 768, 256
  layer = 128 * 24 * width**2 + 4 * 128 * 128 * width
  head = 20 * 2 * (width**2 + width * WORDS)
  pooled = 2 * (width**2 + 2 * width)
  parts = parts_of(one, "bert")
  assert sum(parts.values()) == rows * (12 * layer + head + pooled)
  assert parts["blocks"] == pytest.approx(rows * 22.3e9, rel=0.01)
