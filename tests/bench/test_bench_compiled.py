"""What the benchmarks read off compiled programs, on the smallest shapes."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from launch.bench import accumulation, compiling, mlm_head, remat, workload
from vlp_jax.costs import dots
from vlp_jax.errors import UserError

MINI = workload.SIZES["mini"]


def test_depth_adds_nothing_to_the_program():
  """P6: the compiler is given as much for 24 layers as for 6."""
  few, many = (compiling.facts(depth, small=True)["lines"] for depth in (6, 24))
  assert many <= 1.02 * few


def test_flops_of_a_loop_count_as_often_as_it_runs():
  def fn(w, x):
    x = jax.lax.fori_loop(0, 5, lambda _, x: x @ w, x)
    return x @ w[:, :3]

  w, x = jnp.ones((8, 8)), jnp.ones((4, 8))
  text = jax.jit(fn).lower(w, x).compile().as_text()
  assert dots.executed(text) == 2 * 4 * 8 * (5 * 8 + 3)


def test_the_head_works_on_masked_places_only():
  """P8: matmuls of the whole MLM step against the formula."""
  size = dataclasses.replace(
    MINI, rows=4, words=12, regions=12, region_dim=64, vocab_size=3000
  )
  facts = mlm_head.facts(size, 3)
  assert facts["of_minimum"] == pytest.approx(1.0, abs=0.03)
  assert facts["everywhere"] > 2  # a head at all places would be seen
  assert facts["of_expected"] > facts["of_minimum"]


@pytest.mark.multidevice
def test_microbatches_add_no_all_reduce_of_gradients():
  """P18: all-reduces of a step move the gradients once, and little else."""
  facts = accumulation.traffic(MINI, 2, 8)
  assert facts["of_params"] == pytest.approx(1.0, abs=0.03)


def test_recomputing_saves_memory_and_the_chooser_takes_the_least():
  size = dataclasses.replace(MINI, depth=5, rows=16)
  found = remat.facts(size, ("none", "full"))
  assert found["full"] < found["none"]
  known = {"none": 3_000_000, "dots": 2_000_000, "full": 1_000_000}
  assert remat.chosen(known, 2.5e-3) == {"policy": "dots", "temp_mb": 2.0}
  assert remat.chosen(known, 0.5e-3)["policy"] is None
  with pytest.raises(UserError, match="no rematerialisation fits"):
    remat.pick(known, 0.5e-3)
