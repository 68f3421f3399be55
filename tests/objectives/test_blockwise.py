"""What the blocks cost, from compiled programs: memory and bytes between devices."""

import jax
import pytest

from launch.bench import contrastive as bench


def test_one_device_needs_little_memory():
  """All scores would take 1.3 GB, several times."""
  assert bench.facts("mil_nce", 8192, 5, 512, 1)["temp_mb"] <= 128


@pytest.mark.multidevice
def test_traffic_does_not_depend_on_the_candidates():
  """One side there and back, and vectors; memory grows no faster than the batch."""
  one, five = (bench.facts("mil_nce", 1024, k, 64, 8) for k in (1, 5))
  assert one["traffic_mb"] == five["traffic_mb"] <= one["goal_mb"]
  assert one["collective_mb"] == five["collective_mb"] <= one["goal_mb"]
  assert set(five["collectives"]) == {"all-gather", "all-reduce", "reduce-scatter"}
  few = bench.facts("mil_nce", 256, 5, 64, 2)  # as many rows a device
  assert five["temp_mb"] <= 4 * few["temp_mb"]


@pytest.mark.multidevice
def test_scores_are_formed_once_forward_and_once_back():
  """Products of a block: one forward; again, and two for the gradients, backward."""
  import jax.numpy as jnp

  from vlp_jax.objectives import nce

  x = jax.ShapeDtypeStruct((8, 4), jnp.float32)
  run = lambda v, t: nce.mil_nce_and_matches(v, t[:, None])[0].sum()
  count = lambda fn: str(jax.make_jaxpr(fn)(x, x)).count("dot_general")
  assert count(run) == 1
  assert count(jax.value_and_grad(run, (0, 1))) == 4
