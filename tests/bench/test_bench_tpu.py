"""The TPU benchmark: configs, programs, lines; one compile where libtpu is."""

import importlib.util
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from launch import command
from launch.bench import tpu
from tests import helpers
from vlp_jax import hlo

CONFIG = """
def get_config(arg=None):
  special = (0, 1, 2, 3, 4)
  return dict(
    model=dict(name="uniter", variant="mu", dtype="bfloat16"),
    vocab=dict(size=200, cls_id=2, sep_id=3, mask_id=4, special_ids=special),
    tasks=dict(
      mrfr=dict(objective="masked:mrfr"), mlm=dict(objective="masked:mlm")
    ),
    input=dict(task="text_regions", rows=32, max_tokens=14, max_regions=12),
    optim=dict(name="sgd", lr=1e-3),
    total_steps=10,
  )
"""


def test_every_config_that_trains_is_there(monkeypatch):
  monkeypatch.chdir(helpers.ROOT)
  names = tpu.everything()
  assert {"uniter/pretrain", "mil_nce/howto100m", *tpu.FORMS} <= set(names)
  assert not [n for n in names if n.startswith("probe/") or "common" in n]
  assert len(names) == len(set(names))
  for name in names:
    assert tpu.load(name)["tasks"], name


def test_float32_matmuls_are_found_where_they_are_not_meant():
  class Model:
    @staticmethod
    def run(x, kernel, words):
      with jax.named_scope("jvp(Model)/encoder/layers"):
        x = x @ kernel.astype(jnp.float32)  # 2 x 8 x 8 x 8 FLOPs
      low = x.astype(jnp.bfloat16)
      with jax.named_scope("jvp(Model)/encoder/out"):
        low = low @ kernel  # as many
      with jax.named_scope("jvp(Model)/mlm_head"):
        logits = low.astype(jnp.float32) @ words  # logits are allowed
      return logits @ logits.T  # and losses are outside of a model

  at = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
  args = at(8, 8), at(8, 8, dtype=jnp.bfloat16), at(8, 8)
  text = jax.jit(Model.run).lower(*args).as_text(debug_info=True)
  assert tpu.float32(text) == {"encoder/layers": 0.25}


def test_the_smallest_slice_that_fits_is_chosen(tmp_path):
  (tmp_path / "tiny.py").write_text(CONFIG)
  config = command.config_of(str(tmp_path / "tiny.py"))
  given = dict(vocab_size=None)
  shape, report = tpu.choose(config, "v5e", ("4x4", "4x8"), **given)
  assert (shape, report["chips"], report["fits"]) == ("4x4", 16, True)
  # 32 rows do not divide over 64 chips.
  assert tpu.choose(config, "v5e", ("8x8", "4x8"), **given)[0] == "4x8"
  shape, few = tpu.choose(config, "v5e", ("8x8",), **given)
  assert (shape, few["chips"]) == ("8x8", 32)
  config["input"]["rows"] = 2**24
  shape, large = tpu.choose(config, "v5e", ("4x4", "8x8", "16x16"), **given)
  assert shape == "16x16"  # the largest, though it is too small
  assert large["bytes_total"] > large["hbm_bytes"]


# As the compiler for TPU writes it, without a trip count.
LOOP = """HloModule jit_step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  %x = f32[8]{0:T(256)} get-tuple-element(%p), index=1
  %all-reduce.1 = f32[8]{0:T(256)} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %t = (s32[]{:T(128)}, f32[8]{0:T(256)}) tuple(%i, %all-reduce.1)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(12)
  %p.1 = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %lt.1 = pred[]{:T(512)} compare(%i.1, %limit), direction=LT, metadata={}
}

ENTRY %main (p: (s32[], f32[8])) -> f32[16] {
  %p.2 = (s32[]{:T(128)}, f32[8]{0:T(256)}) parameter(0)
  %while.1 = (s32[]{:T(128)}, f32[8]{0:T(256)}) while(%p.2), \
condition=%condition, body=%body
  %y = f32[8]{0:T(256)} get-tuple-element(%while.1), index=1
  ROOT %all-gather.1 = f32[16]{0:T(256)} all-gather(%y), \
replica_groups={{0,1}}, dimensions={0}
}
"""


def test_loops_of_tpu_programs_count_by_their_condition():
  assert hlo.collectives(LOOP) == {
    "all-reduce": {"count": 12, "bytes": 12 * 32},
    "all-gather": {"count": 1, "bytes": 64},
  }
  assert hlo.gathered(LOOP) == {(16,)}
  name = 'dimensions={0}, metadata={op_name="jit(step)/jvp()/shard_map/all_gather"}'
  assert hlo.gathered(LOOP.replace("dimensions={0}", name)) == set()
  other = LOOP.replace("direction=LT", "direction=NE")
  assert hlo.collectives(other)["all-reduce"]["count"] == 1


LINE = {
  "case": "uniter/pretrain",
  "chip": "v5e",
  "topology": "v5e:4x4",
  "params": 112_938_887,
  "rows": 992,
  "bytes": 8 * 2**30,
  "hbm_bytes": 16 * 2**30,
  "share": 0.5,
  "fits": True,
  "collective_bytes": {"all-reduce": 2_000_000, "all-gather": 1_000_000},
  "compile_s": 61.0,
  "processor_s": 60.0,
}


def test_the_table():
  rows = tpu.table([LINE, {"case": "x/y", "chip": "v6e", "error": "died"}]).splitlines()
  assert rows[2] == (
    "| uniter/pretrain | v5e:4x4 | 112.9 M | 992 | 8.0 of 16 GiB, 50% | yes | 3 MB | "
    "60 s |"
  )
  assert "died" in rows[3]
  assert len({row.count("|") for row in rows}) == 1


def bench(*args, **env):
  return subprocess.run(
    [sys.executable, "-m", "launch.bench.tpu", *args],
    capture_output=True,
    text=True,
    cwd=helpers.ROOT,
    env=os.environ | env,
  )


def needs_libtpu():
  if importlib.util.find_spec("libtpu") is None:
    pytest.skip("needs libtpu: pip install -r requirements-tpu-aot.txt")


def test_mistakes_are_one_line():
  for args, says in (
    (("--chips=v5x",), "give some of v5e, v6e, v5p"),
    (("--topology=v5e", "--configs=bert/pretrain"), "is not CHIP:AxB"),
    (("--configs=no/such",), "configs/no/such.py: no such file"),
    (("--effort=2",), "not a number in the range"),
  ):
    made = bench(*args)
    assert made.returncode == 2, made.stderr
    assert made.stderr.startswith("error: ")
    assert made.stderr.count("\n") == 1
    assert says in made.stderr


@pytest.mark.tpu
@pytest.mark.slow
def test_a_small_config_compiles_and_is_not_compiled_again(tmp_path):
  needs_libtpu()
  out = tmp_path / "out.jsonl"
  given = ("--configs=uniter/nlvr", "--topology=v5e:2x2", f"--out={out}")
  made = bench(*given)
  assert made.returncode == 0, made.stderr
  line = json.loads(out.read_text())
  assert (line["topology"], line["chips"], line["fits"]) == ("v5e:2x2", 4, True)
  assert 0 < line["share"] < 0.9
  assert line["collective_bytes"]["all-reduce"] > 0
  assert line["gathers"] == []
  assert line["float32"] is None  # the config computes in float32
  assert "| uniter/nlvr | v5e:2x2 |" in made.stdout
  again = bench(*given)
  assert again.returncode == 0
  assert json.loads(out.read_text()) == line
  assert not [x for x in again.stdout.splitlines() if x.startswith("{")]
