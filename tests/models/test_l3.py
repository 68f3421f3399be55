"""L3-Net: published counts, the middle frame, pairs, missing streams, statistics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax import batch as batch_lib
from vlp_jax.models import l3
from vlp_jax.towers import l3 as tower


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0), batch_lib.zeros(model.spec()))


def count(tree):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def full(samples=48_000):
  spec = lambda shape, dtype: jax.ShapeDtypeStruct((2, *shape), dtype)
  return {
    "video_frames": spec((3, 224, 224, 3), jnp.uint8),
    "video_mask": spec((3,), bool),
    "audio_samples": spec((samples,), jnp.int16),
    "audio_mask": spec((samples,), bool),
  }


def test_published_parameter_counts_and_shapes():
  model = l3.Model(**l3.VARIANTS["base"])
  made = shapes(model)
  assert count(made["params"]["video_tower"]) == 4_689_216
  assert count(made["params"]["audio_tower"]) == 4_688_064
  assert count(made["params"]) == 9_508_738
  out = jax.eval_shape(model.apply, made, full())
  assert {k: x.shape for k, x in out.items()} == {
    "video_features": (2, 512),
    "audio_features": (2, 512),
    "audio_pooled": (2, 4 * 3 * 512),
    "match_logits": (2, 2),
  }
  half = l3.Model(dtype="bfloat16")
  assert {x.dtype for x in jax.eval_shape(half.apply, made, full()).values()} == {
    np.dtype("float32")
  }


def batch(rows=4, seed=0, samples=4_800):
  """Row 1 has no picture, row 2 no sound, row 3 two frames of three."""
  rng = np.random.default_rng(seed)
  video, audio = np.ones((rows, 3), bool), np.ones((rows, samples), bool)
  video[1], video[3, 2], audio[2] = False, False, False
  return {
    "video_frames": rng.integers(0, 256, (rows, 3, 16, 16, 3)).astype(np.uint8),
    "video_mask": video,
    "audio_samples": rng.integers(-9000, 9000, (rows, samples)).astype(np.int16),
    "audio_mask": audio,
  }


@pytest.fixture(scope="module")
def tiny():
  """(model, variables, compiled training run)."""
  model = l3.Model(**l3.VARIANTS["mu"])
  variables = jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))
  # Heads beyond their first values, so that no term is 0.
  move = lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)
  variables |= {"params": jax.tree.map(move, variables["params"])}
  train = jax.jit(lambda v, b: model.apply(v, b, train=True, mutable=["batch_stats"]))
  return model, variables, train


def test_the_middle_frame_alone_is_seen(tiny):
  _, variables, train = tiny
  frames, real = tower.middle(*(batch()[f"video_{k}"] for k in ("frames", "mask")))
  np.testing.assert_array_equal(real, [True, False, True, True])
  for row in (0, 2, 3):  # of two frames the second
    np.testing.assert_array_equal(frames[row], batch()["video_frames"][row, 1])
  assert not np.array(frames[1]).any()
  changed = batch()
  changed["video_frames"][:, [0, 2]] = 7
  jax.tree.map(
    np.testing.assert_array_equal, train(variables, batch()), train(variables, changed)
  )


def test_missing_streams_are_zero_and_in_no_statistics(tiny):
  _, variables, train = tiny
  out, stats = train(variables, batch())
  assert not np.array(out["video_features"][1]).any()
  assert not np.array(out["audio_features"][2]).any()
  assert not np.array(out["audio_pooled"][2]).any()
  assert np.array(out["video_features"])[[0, 2, 3]].any(1).all()
  other, wild = batch(seed=1), batch()
  wild["video_frames"][1] = other["video_frames"][1]
  wild["audio_samples"][2] = other["audio_samples"][2]
  same, again = train(variables, wild)
  jax.tree.map(np.testing.assert_array_equal, out, same)
  jax.tree.map(np.testing.assert_array_equal, stats, again)


def test_the_head_by_hand_and_one_stream_alone(tiny):
  model, variables, train = tiny
  out, _ = train(variables, batch())
  p = jax.tree.map(np.array, variables["params"])
  both = np.concatenate([out["video_features"], out["audio_features"]], axis=1)
  hidden = np.maximum(both @ p["hidden"]["kernel"] + p["hidden"]["bias"], 0)
  want = hidden @ p["match"]["kernel"] + p["match"]["bias"]
  np.testing.assert_allclose(out["match_logits"], want, rtol=1e-4, atol=1e-5)
  for stream in ("video", "audio"):
    part = {k: jax.ShapeDtypeStruct(x.shape, x.dtype) for k, x in batch().items()}
    part = {k: x for k, x in part.items() if k.startswith(stream)}
    alone = jax.eval_shape(model.apply, variables, part)
    assert set(alone) == {k for k in out if k.startswith(stream)}


def test_maxima_on_a_grid():
  x = np.random.default_rng(0).normal(size=(2, 9, 7, 3)).astype(np.float32)
  got = np.array(tower.grid_max(jnp.array(x))).reshape(2, 4, 3, 3)
  for i in range(4):
    for j in range(3):
      part = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].max((1, 2))
      np.testing.assert_array_equal(got[:, i, j], part)
  assert tower.grid_max(jnp.array(x[:, :2, :1])).shape == (2, 2 * 1 * 3)
