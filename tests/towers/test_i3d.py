"""I3D: its parameters by hand, its numbers by loops, and its place in MIL-NCE."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import networks
from tests.reference import volumes as reference
from vlp_jax import batch as batch_lib
from vlp_jax import resolve
from vlp_jax.objectives import contrastive
from vlp_jax.towers import i3d, s3d

STAGES = (
  ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
  ("conv_2b", "point", 4),
  ("conv_2c", "separable", 5),
  ("gating", "gate"),
  ("mixed_3b", "inception", 3, 2, 4, 2, 3, 2),
)


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def by_hand():
  """(weights of convolutions, channels behind them) before the last linear layer."""
  weights, channels = 7**3 * 3 * 64, 64
  weights, channels = weights + 64 * 64 + 27 * 64 * 192, channels + 64 + 192
  width = 192
  for b0, b1a, b1b, b2a, b2b, b3 in networks.MIXED.values():
    weights += width * (b0 + b1a + b2a + b3) + 27 * (b1a * b1b + b2a * b2b)
    channels += b0 + b1a + b1b + b2a + b2b + b3
    width = b0 + b1b + b2b + b3
  return weights, channels


def test_parameters_are_those_of_the_table():
  weights, channels = by_hand()
  assert (weights, channels) == (12_272_704, 7_280)
  assert (weights + channels, weights + 2 * channels) == (12_279_984, 12_287_264)
  model = resolve.model(
    {"name": "mil_nce", "variant": "i3d"}, inject={"vocab_size": 66_250}
  )
  example = batch_lib.zeros(model.spec())
  made = jax.eval_shape(model.init, jax.random.key(0), example)["params"]
  assert count(made["video_tower"]) == 12_279_984 + 1024 * 512 + 512
  assert not any("gating" in k for k in made["video_tower"])
  clips = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), jnp.uint8)
  net = i3d.I3D(embed_dim=0, bn_scale=True)
  run = lambda key, c: net.init_with_output(key, c, stages=True)
  out, made = jax.eval_shape(run, jax.random.key(0), clips)
  assert count(made["params"]) == 12_287_264
  sizes = {k: x.shape[1:] for k, x in out["stages"].items()}
  assert sizes["conv1"] == (16, 112, 112, 64)
  assert sizes["maxpool_4a"] == (8, 14, 14, 480)
  assert sizes["mixed_5c"] == (4, 7, 7, 1024)


def layer(x, params, stats, strides=(1, 1, 1)):
  """Convolution with TensorFlow's padding, norm without scale, ReLU."""
  kernel, padding = np.asarray(params["conv1"]["kernel"], float), []
  for n, k, s in zip(x.shape[1:4], kernel.shape[:3], strides, strict=True):
    missing = max((-(-n // s) - 1) * s + k - n, 0)
    padding.append((missing // 2, missing - missing // 2))
  x = reference.conv3d(x, kernel, strides, padding)
  bias, mean, var = (
    np.asarray(v, float)
    for v in (params["bn1"]["bias"], stats["bn1"]["mean"], stats["bn1"]["var"])
  )
  return np.maximum((x - mean) / np.sqrt(var + 1e-3) + bias, 0)


def test_numbers_are_those_of_loops():
  rng = np.random.default_rng(0)
  frames = rng.integers(0, 256, (1, 4, 9, 9, 3)).astype(np.uint8)
  net = i3d.I3D(embed_dim=6, stem_width=4, stages=STAGES)
  variables = jax.jit(net.init)(jax.random.key(0), frames)
  fill = lambda x: rng.uniform(0.1, 0.4, x.shape).astype(np.float32)
  stats = jax.tree.map(fill, variables["batch_stats"])
  kernels = dict(variables["params"])
  assert set(kernels["mixed_3b"]["conv_b0"]["bn1"]) == {"bias"}
  out = jax.jit(net.apply)({"params": kernels, "batch_stats": stats}, frames)
  one = lambda x, name, **more: layer(x, kernels[name], stats[name], **more)
  x = one(frames / 255, "conv1", strides=(2, 2, 2))
  x = reference.max_pool(x, (1, 3, 3), (1, 2, 2), "tf")
  x = one(one(x, "conv_2b"), "conv_2c")
  mixed = kernels["mixed_3b"], stats["mixed_3b"]
  branch = lambda x, name: layer(x, mixed[0][name], mixed[1][name])
  pooled = reference.max_pool(x, (3, 3, 3), (1, 1, 1), "tf")
  x = np.concatenate(
    [
      branch(x, "conv_b0"),
      branch(branch(x, "conv_b1_a"), "conv_b1_b"),
      branch(branch(x, "conv_b2_a"), "conv_b2_b"),
      branch(pooled, "conv_b3_b"),
    ],
    axis=-1,
  )
  features = x.mean((1, 2, 3))
  np.testing.assert_allclose(out["features"], features, rtol=2e-4, atol=1e-5)
  fc = {k: np.asarray(v, float) for k, v in kernels["fc"].items()}
  want = features @ fc["kernel"] + fc["bias"]
  np.testing.assert_allclose(out["embed"], want, rtol=2e-4, atol=1e-5)


@pytest.mark.slow
def test_a_step_through_mil_nce_lowers_the_loss():
  model = resolve.model(
    {"name": "mil_nce", "variant": "mu", "video": "i3d", "stages": STAGES},
    inject={"vocab_size": 30},
  )
  variables = jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))
  rng = np.random.default_rng(1)
  frames = rng.integers(0, 256, (4, 8, 16, 16, 3)).astype(np.uint8)
  batch = {
    "video_frames": frames,
    "video_mask": np.ones((4, 8), bool),
    "narration_ids": rng.integers(1, 30, (4, 2, 3)).astype(np.int32),
    "narration_mask": np.ones((4, 2, 3), bool),
    "example_id": np.arange(4, dtype=np.int32),
  }

  def apply(variables, batch, *, rng=None, train=False, method=None):
    del rng
    stats = ["batch_stats"] if train else False
    return model.apply(variables, batch, train=train, method=method, mutable=stats)

  def loss(params):
    given = dict(variables) | {"params": params}
    terms, _, _ = contrastive.mil_nce(apply, given, batch, jax.random.key(0))
    return sum(t.coef * t.total / t.weight for t in terms.values())

  run = jax.jit(jax.value_and_grad(loss))
  before, grads = run(variables["params"])
  step = jax.tree.map(lambda p, g: p - 1e-2 * g, variables["params"], grads)
  assert float(run(step)[0]) < float(before)
  norms = [float(jnp.abs(g).max()) for g in jax.tree.leaves(grads["video_tower"])]
  assert min(norms) > 0


def test_the_keyword_takes_any_table():
  plain = i3d.I3D(embed_dim=0, stem_width=4, stages=STAGES)
  gated = s3d.S3D(embed_dim=0, stem_width=4, stages=STAGES, **s3d.PLAIN_7)
  clips = jax.ShapeDtypeStruct((1, 4, 8, 8, 3), jnp.uint8)
  a, b = (jax.eval_shape(n.init, jax.random.key(0), clips) for n in (plain, gated))
  assert a["params"]["conv_2c"]["conv1"]["kernel"].shape == (3, 3, 3, 4, 5)
  assert b["params"]["conv_2c"]["conv1"]["kernel"].shape == (1, 3, 3, 4, 5)
  assert set(b["params"]) - set(a["params"]) == {"gating"}
  bare = jax.ShapeDtypeStruct(clips.shape[1:], jnp.uint8)
  with pytest.raises(ValueError, match="the tower takes"):
    jax.eval_shape(plain.init, jax.random.key(0), bare)
