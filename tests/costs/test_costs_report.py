"""Bytes, collectives and errors of the cost report, without accelerator or data."""

import dataclasses
import json
import math
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests import helpers
from vlp_jax import hlo, optim, resolve, sharding
from vlp_jax import state as state_lib
from vlp_jax.costs import (
  chips,
  inputs,
  job,
  memory,
  remat,
  report,
  request,
  roofline,
  topology,
  traffic,
)
from vlp_jax.errors import UserError

KEYS = {
  "params",
  "flops_useful",
  "flops_padded",
  "bytes_params",
  "bytes_optimizer",
  "bytes_activations",
  "bytes_total",
  "hbm_bytes",
  "fits",
  "collectives",
  "input_mb_s",
  "step_s",
  "hours",
}
VOCAB = dict(
  size=200,
  cls_id=2,
  sep_id=3,
  mask_id=4,
  special_ids=(0, 1, 2, 3, 4),
  valid_range=(5, 200),
)


def config(variant="mu", *, rows=32, micro=1, optimizer="adamw", mesh=None, **model):
  return dict(
    model=dict(name="uniter", variant=variant, **model),
    vocab=VOCAB,
    tasks=dict(mlm=dict(objective="masked:mlm", max_masked=4)),
    input=dict(task="text_regions", rows=rows, max_tokens=14, max_regions=12),
    optim=dict(name=optimizer, lr=1e-3),
    mesh=mesh or {},
    micro=micro,
    total_steps=100,
  )


def clips(rows=32, **mesh):
  keys = dict(num_frames=8, size=32, candidates=2, max_words=4, rows=rows)
  return config() | dict(
    model=dict(name="mil_nce", variant="mu"),
    tasks=dict(mil_nce=dict(objective="contrastive:mil_nce")),
    input=dict(task="narrated_clips") | keys,
    mesh=mesh,
  )


@pytest.mark.parametrize("mesh", [dict(fsdp=8), dict(fsdp=4, model=2), {}])
def test_state_bytes_are_those_of_the_real_shardings(mesh):
  """Against eval_shape of the training state on eight devices, and 1 / N of it."""
  made = job.build(config("small", mesh=mesh), chips.devices(8))
  model = resolve.model(config("small")["model"], inject={"vocab_size": 200})
  real = sharding.mesh(mesh, jax.devices())
  build = lambda p: optim.build(p, name="adamw", lr=1e-3, total_steps=100)
  _, abstract, _, _ = state_lib.init(model, build, real)
  for part in ("params", "opt_state"):
    leaves = jax.tree.leaves(getattr(abstract, part))
    want = sum(4 * np.prod(x.sharding.shard_shape(x.shape)) for x in leaves)
    assert memory.held(getattr(made.abstract, part)) == want
  total = 4 * sum(x.size for x in jax.tree.leaves(abstract.params))
  share = 1 / (real.shape["fsdp"] * real.shape["model"])
  # What stays whole: biases and norms of a net 256 wide.
  assert total * share <= memory.held(made.abstract.params) <= total * (share + 0.05)


def test_memory_and_collectives_are_those_of_the_compiled_step():
  # Layers in a loop: a few are laid out one by one, and then more is kept.
  made = job.build(config(optimizer="sgd", dropout=0.0, depth=6), jax.devices())
  options = {"xla_backend_optimization_level": 0}  # of the machine code, not the plan
  compiled = made.lower("mlm").compile(compiler_options=options)
  found = compiled.memory_analysis()
  estimate = memory.activations(made, "mlm", platform="cpu")[0] + memory.gradients(made)
  assert estimate == pytest.approx(found.temp_size_in_bytes, rel=0.15)
  batch = sum(map(memory.size, made.tasks["mlm"].batch.values())) / 8
  own = memory.held(made.abstract) + batch
  assert own == pytest.approx(found.argument_size_in_bytes, rel=0.01)
  sent = hlo.collectives(compiled.as_text())["all-reduce"]["bytes"]
  formula = traffic.by_kind(traffic.collectives(made, "mlm"))["all-reduce"]["bytes"]
  assert sent == pytest.approx(formula, rel=0.05)


def test_memory_follows_the_settings():
  peak = lambda **keys: memory.activations(
    job.build(config(**keys), chips.devices(4)), "mlm", platform="cpu"
  )[0]
  plain = peak()
  assert peak(remat="full") < peak(remat="dots") < plain
  again = memory.gradients(job.build(config(), chips.devices(4)))  # beside the sum
  assert peak(micro=2) == pytest.approx(plain / 2 + again)
  assert peak(rows=64) == pytest.approx(plain * 2, rel=0.05)
  whole = memory.gradients(
    job.build(config(mesh=dict(fsdp=4), micro=2), chips.devices(4))
  )
  assert whole == memory.gradients(job.build(config(), chips.devices(1)))


def test_only_code_of_the_platform_counts():
  """Convolutions by columns, which CPUs take, keep more than others do."""
  made = job.build(clips(), chips.devices(1))
  kept = {p: memory.activations(made, "mil_nce", platform=p)[1] for p in ("cpu", "gpu")}
  assert kept["gpu"] < 0.9 * kept["cpu"]
  words = job.build(config(), chips.devices(1))
  kept = {p: memory.activations(words, "mlm", platform=p)[1] for p in ("tpu", "gpu")}
  assert kept["tpu"] > 2 * kept["gpu"]  # heads 32 wide fill 128 lanes
  assert memory.tiled(jax.ShapeDtypeStruct((2, 162, 64), "bfloat16")) == 2 * 176 * 256


def test_weights_in_the_type_of_the_computation_are_kept_whole():
  """Those of the layers, 2 bytes each, on one device and on eight."""
  peak = lambda devices, **keys: memory.activations(
    job.build(config(depth=24, **keys), chips.devices(devices)), "mlm", platform="gpu"
  )[0]
  kernels = 24 * 12 * 64**2 * 2
  eighth = peak(1, dtype="bfloat16", rows=32) / 8
  assert peak(8, dtype="bfloat16", rows=32) == pytest.approx(
    eighth + 7 / 8 * kernels, rel=0.02
  )
  assert peak(8, rows=32) == pytest.approx(peak(1, rows=32) / 8)


def test_collectives_by_formula():
  count = lambda c, n: traffic.by_kind(
    traffic.collectives(job.build(c, chips.devices(n)), next(iter(c["tasks"])))
  )
  assert count(config(), 1) == {}
  params = memory.held(job.build(config(), chips.devices(1)).abstract.params)
  assert count(config(), 8)["all-reduce"]["bytes"] == params
  split = count(config(mesh=dict(fsdp=8)), 8)
  assert {"all-gather", "reduce-scatter", "all-reduce"} == set(split)
  assert split["all-gather"]["bytes"] > 7.5 * 2 * split["reduce-scatter"]["bytes"]
  nce = count(clips(), 8)
  assert nce["all-gather"]["bytes"] == 32 * 16 * 4  # [B, D] of the clips
  assert nce["reduce-scatter"]["bytes"] == 32 * 16 * 4 // 8
  wide = count(config(mesh=dict(model=2)), 2)["all-reduce"]
  assert wide["bytes"] >= 4 * 2 * 32 * 28 * 64 * 4  # four a layer, [B, M, D]


def test_roofline():
  chip = chips.chip("h200")
  made = roofline.bound(chip, flops=989e12 * 0.8, traffic=1.0)
  assert (made.compute_s, made.bound_by) == (pytest.approx(1.0), "compute")
  one = roofline.Collective("all-reduce", 1, 450e9, 8)
  assert roofline.collective_s(one, chip) == pytest.approx(2 * 7 / 8)
  far = roofline.collective_s(one._replace(group=64), chip)
  assert far > roofline.collective_s(one, chip) + 1  # eight servers
  gathered = one._replace(kind="all-gather")
  assert roofline.collective_s(gathered, chip) == pytest.approx(7 / 8)


def test_report():
  out = request.answer(config(), request.Request(chip="v5e", chips=8))
  assert set(out) >= KEYS
  assert json.loads(json.dumps(out)) == out
  assert out["fits"]
  assert out["params"] == 137_221
  assert out["examples_s"] * out["step_s"] == pytest.approx(32)
  batch = sum(
    map(memory.size, job.build(config(), chips.devices(1)).tasks["mlm"].batch.values())
  )
  assert out["input_mb_s"] * 2 * 1e6 * out["step_s"] == pytest.approx(
    batch
  )  # two hosts
  assert out["chip_hours"] == pytest.approx(100 * out["step_s"] / 3600 * 8)
  text = report.table(out)
  assert "8 x v5e" in text
  assert "fits 17.180 GB" in text
  more = request.answer(config(), request.Request(chip="v5e", chips=8, useful=14.0))
  assert more["flops_useful"] < 0.6 * more["flops_padded"]


@pytest.mark.parametrize(
  ("asked", "message"),
  [
    (dict(chip="v7"), "--chip 'v7' is unknown.*Known: cpu, h100"),
    (dict(chips=0), "--chips is 0"),
    (dict(chips=3), "32 rows does not divide by 3 data shards"),
    (dict(topology="v5e:4by4"), "--topology 'v5e:4by4' is not CHIP:AxB"),
    (dict(topology="h100:2x2"), "Chips: v4, v5e, v5p, v6e"),
    (
      dict(topology="v5e:4x4", chips=8),
      "--chips=8 and --topology v5e:4x4, which has 16",
    ),
    (dict(task="mrm"), "--task 'mrm'.*Known: mlm"),
    (dict(vocab_size=3), "--vocab_size is 3; it must be at least 8"),
    (dict(sizes={"B": 0}), "--rows is 0; it must be at least 1"),
    (dict(sizes={"B": -8}), "--rows is -8; it must be at least 1"),
    (dict(sizes={"M": 2}), "--length is 2; it must be at least 3"),
    (dict(useful=0.0), "--useful is 0.0; it must be a number above 0"),
    (dict(useful=float("nan")), "--useful is nan"),
    (dict(useful=29.0), "--useful is 29; a row of task mlm has 28 tokens"),
    (dict(remat_gb=0.0), "--remat_gb is 0.0; it must be a number above 0"),
    (dict(topology="v5e:2x2x2"), "has 3 sides; slices of v5e have 2.*v5e:2x4"),
    (dict(topology="v4:4x4"), "has 2 sides; slices of v4 have 3.*v4:2x2x1"),
    (dict(topology="v5e:100x100"), "no slice of v5e.*largest is 16x16.*v5e:8x8"),
    (dict(topology="v6e:8x32"), "no slice of v6e"),
    (dict(topology="v5e:3x5"), r"first two sides are even.*v5e:2x2"),
    (dict(topology="v5p:0x4x4"), "no slice of v5p"),
  ],
)
def test_mistakes_are_one_line(asked, message):
  with pytest.raises(UserError, match=message) as error:
    request.answer(config(), request.Request(**asked))
  assert "\n" not in str(error.value)


def test_what_training_refuses_has_no_cost():
  """Negatives of the whole batch, as `step.build` says."""
  with pytest.raises(UserError, match=r"tasks\.mil_nce: .*micro=2 would change"):
    request.answer(clips() | {"micro": 2}, request.Request())
  cached = clips() | {"micro": 2}
  cached["tasks"] = dict(mil_nce=dict(objective="cached_contrastive:mil_nce"))
  assert job.build(cached, chips.devices(1)).settings.micro == 2


def test_slices_that_there_are():
  for name, shapes in topology.SHAPES.items():
    for shape in shapes.split(", "):
      sides = map(int, shape.partition(":")[2].split("x"))
      assert topology.parse(shape) == (name, math.prod(sides))
  assert topology.parse("v5p:16x20x28") == ("v5p", chips.chip("v5p").domain)


def test_sizes_that_a_model_does_not_take_are_one_line():
  with pytest.raises(UserError, match=r"--size=1: not with this model: .*do not div"):
    request.answer(clips(), request.Request(sizes={"H": 1, "W": 1, "T": None}))


def test_rows_without_tokens_have_no_useful_ones():
  shapes = {"video_frames": jax.ShapeDtypeStruct((2, 4, 8, 8, 3), "uint8")}
  shapes |= {"example_id": jax.ShapeDtypeStruct((2,), "int32")}
  seen = job.Task("see", 1.0, None, shapes)
  with pytest.raises(UserError, match="rows of task see have no tokens; leave it out"):
    request._check_useful(3.0, seen)


def test_what_shapes_lack_is_named():
  model = resolve.model(config()["model"], inject={"vocab_size": 200})
  with pytest.raises(UserError, match=r"the size L of text_ids.*give --words"):
    inputs.batch(model, dict(rows=8))
  with pytest.raises(UserError, match="neither rows nor tokens; give --rows"):
    inputs.batch(model, dict(max_words=4, max_regions=4))
  with pytest.raises(UserError, match="holds 2 rows of 8, fewer than 8"):
    inputs.batch(model, dict(tokens=16, max_words=4, max_regions=4))
  made = inputs.batch(model, dict(task="text_regions", tokens=16_200), shards=16)
  assert made["text_ids"].shape == (96, 62)  # 60 words, [CLS], [SEP]
  assert made["regions_features"].shape == (96, 100, 16)
  assert made["fuse_index"].shape == (96, 162)
  assert "mlm_positions" not in made


def test_vocabularies_without_their_file():
  def vocabulary(size=None, **given):
    settings = job.settings_lib.load(config() | {"vocab": given})
    vocab, note = inputs.vocabulary(settings, size)
    return vocab.size, note

  assert vocabulary(name="words", file="no/dict.npy") == (66_250, "")
  assert vocabulary(name="wordpiece", file="no/a.txt", size=99) == (99, "")
  size, note = vocabulary(name="wordpiece", file="no/a.txt")
  assert size == 30_522
  assert note.startswith("vocab.file no/a.txt is not here: counted with 30,522 ids")
  with pytest.raises(UserError, match=r"'wurds'\. Did you mean 'words'"):
    vocabulary(name="wurds", file="no/a.txt")


def test_a_mixture_is_a_task_for_each_shape():
  mixed = config()
  mixed["input"]["mixture"] = {
    "coco": dict(dir="a", rate=3),
    "vg": dict(dir="b", rate=1),
  }
  assert list(job.build(mixed, chips.devices(1)).tasks) == ["mlm"]
  mixed["input"]["mixture"]["vg"]["max_tokens"] = 6
  found = job.build(mixed, chips.devices(1)).tasks
  words = {k: (t.share, t.batch["text_ids"].shape[1]) for k, t in found.items()}
  assert words == {"mlm/coco": (0.75, 16), "mlm/vg": (0.25, 8)}
  (one,) = job.build(mixed, chips.devices(1), task="mlm/vg").tasks.values()
  assert (one.share, one.batch) == (1.0, found["mlm/vg"].batch)
  for wrong in ("mlm/vgg", "mlmm/vg"):
    with pytest.raises(UserError, match="Did you mean"):
      job.build(mixed, chips.devices(1), task=wrong)


def test_shares_follow_first_and_last_steps():
  given = config()
  head = dict(objective="masked:mlm", max_masked=4)
  given["tasks"] = dict(
    early=head | dict(stop=50),
    late=head | dict(start=50),
    always=head | dict(weight=3.0),
  )
  shares = {k: t.share for k, t in job.build(given, chips.devices(1)).tasks.items()}
  assert shares == pytest.approx(dict(early=1 / 8, late=1 / 8, always=3 / 4))


def test_the_least_recompute_that_fits():
  class Compiled:
    def __init__(self, size):
      self.temp_size_in_bytes = size

    compile = memory_analysis = lambda self: self

  sizes = dict(none=100, dots=60, full=20)
  build = lambda policy: Compiled(sizes[policy])
  assert remat.choose(build, 100) == ("none", {"none": 100}, {})
  assert remat.choose(build, 70) == ("dots", {"none": 100, "dots": 60}, {})
  assert remat.choose(build, 59).policy == "full"
  with pytest.raises(UserError, match=r"'full' needs 0\.00 GB\. Use fewer rows"):
    remat.choose(build, 10)


class Refused:
  """A lowered program on which the compiler stops."""

  def __init__(self, told):
    self.told = told

  def compile(self):
    raise jax.errors.JaxRuntimeError(self.told)


FULL = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in "
FULL += "memory space hbm. Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G."


def test_a_policy_that_does_not_fit_the_device_is_passed_over():
  class Compiled:
    temp_size_in_bytes = 60
    compile = memory_analysis = lambda self: self

  build = lambda policy: Refused(FULL) if policy == "none" else Compiled()
  needed = 20.5 * 2**30
  # Whatever the limit is: the device is smaller.
  assert remat.choose(build, 1e12) == ("dots", {"dots": 60}, {"none": needed})
  with pytest.raises(UserError, match=r"fits the device: 'none' needs 22\.01 GB"):
    remat.choose(lambda policy: Refused(FULL), 1e12)
  with pytest.raises(UserError, match="the compiler stops: INTERNAL: a bug"):
    remat.choose(lambda policy: Refused("INTERNAL: a bug\nmore"), 1e12)


def test_a_step_that_does_not_fit_a_chip_has_an_answer(monkeypatch):
  made = job.build(config(), chips.devices(4))
  lowered = Refused(FULL)
  lowered.as_text = lambda: ""
  monkeypatch.setattr(job.Job, "lower", lambda self, task: lowered)
  out = topology.compile_step(made, "mlm", "v5e")
  assert (out["fits"], out["bytes_total"]) == (False, 20.5 * 2**30)
  assert out["overshoot_bytes"] == round((20.5 - 0.9 * 16) * 2**30)
  assert out["advice"]


def test_advice_names_what_is_left_to_try():
  made = job.build(config(), chips.devices(4))
  said = " ".join(topology.advice(made))
  assert "model.remat='dots'" in said
  assert "micro=2" in said
  assert "fsdp=4" in said
  said = " ".join(topology.advice(dataclasses.replace(made, model=None)))
  assert "remat" not in said
  said = " ".join(topology.advice(job.build(clips(), chips.devices(4))))
  assert "micro" not in said


def run(*args):
  env = os.environ | {"PYTHONPATH": str(helpers.ROOT)}
  return subprocess.run(
    [sys.executable, "-m", "launch.cost", *args],
    capture_output=True,
    text=True,
    env=env,
    cwd=helpers.ROOT,
  )


def test_command():
  made = run(
    *(
      "--config",
      "configs/mil_nce/howto100m.py:runlocal",
      "--vocab_size=100",
      "--json",
    ),
    *("--chip", "h100", "--chips", "2"),
  )
  assert made.returncode == 0, made.stderr
  out = json.loads(made.stdout)
  assert set(out) >= KEYS
  assert out["mesh"]["data"] == 2


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (("configs/uniter/pretrain.py", "--chip", "v9"), "Known: cpu, h100, h200, v4,"),
    (("configs/probe/esc50.py",), "has no tasks: a probe for launch.eval"),
    (("configs/uniter/pretrain.py", "--rows=0"), "--rows is 0; it must be at least 1"),
    (("configs/uniter/pretrain.py", "--effort=-1"), "give --topology (or --compile)"),
  ],
)
def test_command_errors_are_one_line(args, message):
  made = run("--config", *args)
  assert made.returncode == 2
  assert made.stderr.strip().count("\n") == 0
  assert message in made.stderr
