"""Collectives are counted in programs that we know, and in texts of other backends."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from launch.bench import tpu
from vlp_jax import hlo, sharding
from vlp_jax.costs import job


@pytest.mark.parametrize(
  ("text", "size"),
  [
    ("f32[8,16]{1,0}", 512),
    ("bf16[3]{0:T(256)(128)(2,1)S(1)}", 6),
    ("pred[5]", 5),
    ("f8e4m3fn[7]", 7),
    ("s4[8]", 4),
    ("c64[2]", 16),
    ("f32[]", 4),
    ("f32[<=8,2]", 64),
    ("token[]", 0),
    ("(f32[2]{0}, /*index=1*/u32[], (s8[3]))", 15),
  ],
)
def test_bytes_of_types(text, size):
  assert hlo.type_bytes(text) == size


@pytest.mark.multidevice
def test_counts_of_a_known_program():
  """One of each kind, and one that a loop runs seven times."""

  def body(x):
    rows = jax.lax.all_gather(x, "data", tiled=True)  # [16, 3]
    part = jax.lax.psum_scatter(rows * rows, "data", tiled=True)  # [4, 3]
    other = jax.lax.ppermute(x, "model", [(0, 1), (1, 0)])
    split = jax.lax.all_to_all(rows, "data", 0, 0, tiled=True)
    total = jax.lax.fori_loop(0, 7, lambda _, c: jnp.sin(jax.lax.psum(c, "data")), x)
    return part + other + split[:4] + total

  mesh = sharding.mesh(dict(data=4, model=2))
  rows = sharding.batch_sharding(mesh)
  with sharding.context(mesh):
    split = PartitionSpec("data")
    fn = jax.shard_map(body, in_specs=split, out_specs=split, check_vma=False)
    at = jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=rows)
    text = jax.jit(fn).lower(at).compile().as_text()
  assert hlo.collectives(text) == {
    "all-gather": {"count": 1, "bytes": 192},
    "reduce-scatter": {"count": 1, "bytes": 48},
    "collective-permute": {"count": 1, "bytes": 48},
    "all-to-all": {"count": 1, "bytes": 192},
    "all-reduce": {"count": 7, "bytes": 7 * 48},
  }


# As an accelerator's compiler writes it: pairs of start and done, tuples, a wrapped
# asynchronous operation, a fusion, two branches, and a name that misleads.
TEXT = """HloModule jit_step, is_scheduled=true

%wrapped (param: f32[8,4]) -> f32[2,4] {
  %param = f32[8,4]{1,0} parameter(0)
  ROOT %rs = f32[2,4]{1,0:T(2,128)} reduce-scatter(%param), to_apply=%sum
}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %all-reduce.7 = f32[8]{0} all-reduce(%p), channel_id=1, to_apply=%sum
}

%left (p.1: f32[8]) -> f32[8] {
  ROOT %p.1 = f32[8]{0} parameter(0)
}

%right (p.2: f32[8]) -> f32[8] {
  %p.2 = f32[8]{0} parameter(0)
  ROOT %cp = f32[8]{0} collective-permute(%p.2), source_target_pairs={{0,1}}
}

%body (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[], f32[8]{0}) parameter(0)
  %x = f32[8]{0} get-tuple-element(%c), index=1
  %cond = f32[8]{0} conditional(%i, %x, %x), branch_computations={%left, %right}
  %add = f32[8]{0} fusion(%cond), kind=kCustom, calls=%fused
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %add)
}

%never (q: f32[64]) -> f32[64] {
  %q = f32[64]{0} parameter(0)
  ROOT %dead = f32[64]{0} all-reduce(%q), to_apply=%sum
}

ENTRY %main (a: f32[2,4]) -> (f32[8,4], f32[2,4]) {
  %a = f32[2,4]{1,0} parameter(0)
  %ag-start = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%a), dimensions={0}
  %ag-done = f32[8,4]{1,0:T(8,128)} all-gather-done(%ag-start)
  %both = (bf16[4]{0}, f32[2]{0}) all-reduce(%u, %v), to_apply=%sum
  %s = ((f32[8,4]{1,0}), f32[2,4]{1,0}, s32[]) async-start(%ag-done), calls=%wrapped
  %d = f32[2,4]{1,0} async-done(%s), calls=%wrapped
  %copy = f32[9]{0} copy(%w), metadata={op_name="jit(f)/ all-reduce(x)"}
  %loop = (s32[], f32[8]{0}) while(%init), condition=%left, body=%body, \
backend_config={"known_trip_count":{"n":"3"},"known_init_step":{"init":"0"}}
  ROOT %out = (f32[8,4]{1,0}, f32[2,4]{1,0}) tuple(%ag-done, %d)
}
"""


def test_pairs_tuples_loops_and_calls():
  assert hlo.collectives(TEXT) == {
    "all-gather": {"count": 1, "bytes": 128},
    "all-reduce": {"count": 1 + 3, "bytes": 16 + 3 * 32},
    "reduce-scatter": {"count": 1, "bytes": 32},
    "collective-permute": {"count": 3, "bytes": 3 * 32},
  }


def test_other_texts_are_refused():
  with pytest.raises(ValueError, match="no ENTRY computation"):
    hlo.collectives("module @jit_f { func.func public @main() }")


def _look(path, task, monkeypatch, **changes):
  """`bench.tpu.look` at a training step on eight devices."""
  monkeypatch.setattr(tpu, "LEAST", 4_096)  # small nets have small parameters
  config = tpu.load(path)
  config.model.dtype = changes.pop("dtype", "bfloat16")
  config.mesh.update(changes)
  made = job.build(config, jax.devices(), vocab_size=1_024, sizes=dict(M=64))
  lowered = made.lower(task)
  return tpu.look(made, lowered, lowered.compile())


@pytest.mark.multidevice
@pytest.mark.parametrize(
  ("path", "task"),
  [
    ("uniter/pretrain:runlocal", "mlm"),
    pytest.param("uniter/pretrain:runlocal", "itm", marks=pytest.mark.slow),
    pytest.param("mil_nce/howto100m:runlocal", "mil_nce", marks=pytest.mark.slow),
  ],
)
def test_data_parallel_steps_gather_no_parameter_and_multiply_in_bfloat16(
  path, task, monkeypatch
):
  found = _look(path, task, monkeypatch)
  assert not found["gathers"]
  assert not found["float32_places"]
  assert found["float32"] < 1e-3


@pytest.mark.slow
@pytest.mark.multidevice
def test_what_the_look_finds(monkeypatch):
  """Parameters over fsdp are gathered; float32 matmuls are seen."""
  given = "uniter/pretrain:runlocal", "mlm", monkeypatch
  assert _look(*given, data=1, fsdp=8)["gathers"]
  monkeypatch.setattr(tpu, "ALLOWED", re.compile("nothing"))
  assert _look(*given)["float32"] > 0  # the logits
