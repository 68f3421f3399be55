"""Residual towers: published counts and outputs, the shift, masks, still pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import sound as reference
from vlp_jax.layers import norm
from vlp_jax.towers import audio_resnet, l3, r2plus1d, resnet, s3d, tsm_resnet

TINY = dict(depths=(1, 1), widths=(16, 32), stem_width=8)


def spec(*shape, dtype=np.float32):
  return jax.ShapeDtypeStruct(shape, dtype)


def count(net, *shape):
  made = jax.eval_shape(net.init, jax.random.key(0), spec(*shape))
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(made["params"]))


def random(shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def scrambled(variables, seed=1):
  """The same tree with values that no initialiser gives: statistics, biases."""
  rng = np.random.default_rng(seed)

  def one(path, x):
    draw = rng.normal(size=x.shape).astype(np.float32)
    if path[-1].key == "var":
      return 0.5 + np.abs(draw)
    return draw * (0.3 if x.ndim == 1 else 1 / np.sqrt(np.prod(x.shape[:-1])))

  return jax.tree_util.tree_map_with_path(one, variables)


CLIP, MEL = (1, 8, 32, 32, 3), (1, 64, 80)
MC3_FC = 512 * 400 + 400


@pytest.mark.parametrize(
  ("net", "shape", "want"),
  [
    (s3d.S3D(**s3d.MMV), CLIP, 9_146_000),
    (s3d.S3D(**s3d.MMV, **s3d.PLAIN_7), CLIP, 9_162_704),
    (tsm_resnet.TSMResNet(), CLIP, 23_500_352),
    (tsm_resnet.TSMResNet(width_mult=2), CLIP, 93_891_712),
    (audio_resnet.AudioResNet(), MEL, 23_494_080),
    (r2plus1d.R2Plus1D(), CLIP, 33_165_639),
    (r2plus1d.R2Plus1D(middles="block"), CLIP, 31_300_125),
    (r2plus1d.R2Plus1D(kind="r3d"), CLIP, 33_371_472 - MC3_FC),
    (r2plus1d.R2Plus1D(kind="mc3"), CLIP, 11_695_440 - MC3_FC),
    (l3.L3(), (1, 224, 224, 3), 4_689_216),
    (l3.L3(), (1, 257, 199, 1), 4_688_064),
  ],
)
def test_published_parameter_counts(net, shape, want):
  assert count(net, *shape) == want


def test_middle_widths_of_xdc():
  got = [
    r2plus1d.middle(*x)
    for x in ((64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512))
  ]
  assert got == [144, 230, 288, 460, 576, 921]
  assert r2plus1d.middle(512, 512) == 1152


@pytest.mark.parametrize("stem", [{}, s3d.PLAIN_7])
def test_endpoints_of_s3d_in_mmv(stem):
  net = s3d.S3D(**s3d.MMV, **stem)
  clip = spec(1, 32, 224, 224, 3, dtype=np.uint8)
  made = jax.eval_shape(net.init, jax.random.key(0), clip)
  run = lambda v, c: net.apply(v, c, stages=True)
  out = jax.eval_shape(run, made, clip)
  at = {k: x.shape[1:] for k, x in out["stages"].items()}
  assert at["conv1"] == (16, 112, 112, 64)
  assert at["conv_2c"] == (16, 56, 56, 192)
  assert at["mixed_3c"] == (16, 28, 28, 480)
  assert at["mixed_4f"] == (8, 14, 14, 832)
  assert at["mixed_5c"] == (4, 7, 7, 1024)
  assert out["features"].shape == (1, 1024)


def test_sizes_of_sound_and_of_the_last_maps():
  size = lambda net, *shape: jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x)[0], spec(*shape)
  )
  assert size(audio_resnet.AudioResNet(), 2, 94, 80)["last"].shape == (2, 3, 3, 2048)
  xdc = size(audio_resnet.AudioResNet18(), 2, 100, 40)
  assert xdc["last"].shape == (2, 4, 2, 512)  # maxima over 4 x 2, as published
  assert xdc["features"].shape == (2, 512)
  assert size(l3.L3(), 1, 257, 199, 1)["map"].shape == (1, 32, 24, 512)
  assert size(l3.L3(), 1, 224, 224, 3)["map"].shape == (1, 28, 28, 512)
  ave = l3.L3(first_stride=2)
  assert size(ave, 1, 257, 200, 1)["map"].shape == (1, 16, 12, 512)
  assert size(ave, 1, 224, 224, 3)["map"].shape == (1, 14, 14, 512)
  flat = audio_resnet.AudioResNet(**TINY, pool="time")
  assert size(flat, 2, 64, 80)["features"].shape == (2, 32 * 10)


# ----- the shift


def test_shift_of_the_published_code():
  x = jnp.arange(24.0).reshape(3, 1, 1, 8)
  want = [
    [15, 1, 2, 3, 4, 5, 6, 0],
    [23, 9, 10, 11, 12, 13, 14, 0],
    [0, 17, 18, 19, 20, 21, 22, 8],
  ]
  got = tsm_resnet.temporal_shift(x, 3)[:, 0, 0]
  np.testing.assert_array_equal(got, want)
  np.testing.assert_array_equal(reference.shift(np.arange(24.0).reshape(3, 8), 1), want)
  # Two clips do not see each other.
  both = tsm_resnet.temporal_shift(jnp.concatenate([x, x + 100]), 3)
  np.testing.assert_array_equal(both[:3, 0, 0], want)
  again = reference.shift(100 + np.arange(24.0).reshape(3, 8), 1)
  np.testing.assert_array_equal(both[3:, 0, 0], again)


def test_still_pictures_are_permuted_and_damped():
  x = jnp.arange(16.0).reshape(1, 1, 1, 16)
  got = tsm_resnet.deflated_shift(x, alpha=0.5)[0, 0, 0]
  np.testing.assert_array_equal(got, [7, 7.5, *range(2, 14), 0, 0.5])
  still = jnp.repeat(x, 4, axis=0)
  edge = tsm_resnet.temporal_shift(still, 4, time_padding="edge")
  np.testing.assert_array_equal(edge, tsm_resnet.deflated_shift(still))
  assert (tsm_resnet.temporal_shift(still, 4) != edge).any()
  for share in (0.0, 0.05):  # under one channel
    np.testing.assert_array_equal(
      tsm_resnet.temporal_shift(x, 1, share=share),
      tsm_resnet.deflated_shift(x, share=0),
    )
  with pytest.raises(ValueError, match="'wrap'"):
    tsm_resnet.temporal_shift(still, 4, time_padding="wrap")


@pytest.mark.parametrize("project", [True, False])
def test_block_against_loops(project):
  x = random((6, 5, 5, 16))
  block = resnet.BottleneckV2(
    16,
    stride=2 if project else 1,
    project=project,
    norm=norm.BatchNorm,
    mix=lambda x: tsm_resnet.temporal_shift(x, 3),
  )
  variables = scrambled(block.init(jax.random.key(0), x))
  got = block.apply(variables, x)
  want = reference.bottleneck(
    x.astype(np.float64),
    variables["params"],
    variables["batch_stats"],
    2 if project else 1,
    n=2,
    frames=3,
  )
  np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.fixture(scope="module")
def tsm():
  """(tower, variables, compiled evaluation run)."""
  net = tsm_resnet.TSMResNet(**TINY)
  variables = scrambled(jax.jit(net.init)(jax.random.key(0), random((1, 4, 32, 32, 3))))
  return net, variables, jax.jit(net.apply)


def test_without_a_shift_it_is_a_resnet_over_frames(tsm):
  _, variables, run = tsm
  clip = random((2, 4, 32, 32, 3))
  plain = tsm_resnet.TSMResNet(**TINY, share=0.0)
  trunk = resnet.ResNetV2(**TINY)
  inner = {k: x["trunk"] for k, x in variables.items()}
  frames = jax.jit(trunk.apply)(inner, clip.reshape(8, 32, 32, 3))["map"]
  want = frames.mean((1, 2)).reshape(2, 4, -1).mean(1)
  got = jax.jit(plain.apply)(variables, clip)["features"]
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.abs(run(variables, clip)["features"] - got).max() > 1e-3


def test_rows_without_a_clip_stay_out_of_the_statistics(tsm):
  net, variables, _ = tsm
  clips, where = random((3, 4, 32, 32, 3)), np.array([True, False, True])
  run = jax.jit(
    lambda c, w: net.apply(variables, c, train=True, where=w, mutable=["batch_stats"])
  )
  other = clips.copy()
  other[1] = np.nan
  (a, stats), (b, same) = run(clips, where), run(other, where)
  np.testing.assert_array_equal(a["features"][where], b["features"][where])
  jax.tree.map(np.testing.assert_array_equal, stats, same)


def test_one_frame_only_when_deflated():
  net = tsm_resnet.TSMResNet(**TINY, deflated=True)
  with pytest.raises(ValueError, match="T = 1"):
    net.init(jax.random.key(0), random((1, 2, 32, 32, 3)))


# ----- R(2+1)D


SMALL = dict(widths=(4, 8), depths=(1, 1), stem_mid=3)


@pytest.mark.parametrize("kind", ["r2plus1d", "r3d", "mc3"])
def test_kinds_halve_time_or_not(kind):
  net = r2plus1d.R2Plus1D(kind=kind, **SMALL)
  clip = spec(1, 8, 32, 32, 3)
  made = jax.eval_shape(net.init, jax.random.key(0), clip)
  out = jax.eval_shape(lambda v, c: net.apply(v, c, stages=True), made, clip)
  at = {k: x.shape[1:] for k, x in out["stages"].items()}
  assert at["stem"] == at["layer1"] == (8, 16, 16, 4)
  assert at["layer2"] == ((8, 8, 8, 8) if kind == "mc3" else (4, 8, 8, 8))


def test_a_clip_and_its_bytes_are_the_same_and_order_matters():
  net = r2plus1d.R2Plus1D(**SMALL)
  clip = np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16, 3)).astype(np.uint8)
  variables = jax.jit(net.init)(jax.random.key(0), clip)
  run = jax.jit(net.apply)
  one = run(variables, clip)["features"]
  same = run(variables, clip / np.float32(255))["features"]
  np.testing.assert_allclose(one, same, atol=1e-6)
  assert np.abs(one - run(variables, clip[:, ::-1])["features"]).max() > 1e-5


def test_mistakes_are_named():
  for fields, match in ((dict(kind="i3d"), "'i3d'"), (dict(middles="all"), "'all'")):
    with pytest.raises(ValueError, match=match):
      r2plus1d.R2Plus1D(**fields).init(jax.random.key(0), random((1, 2, 8, 8, 3)))
  with pytest.raises(ValueError, match=r"\[B, T, H, W, 3\]"):
    r2plus1d.R2Plus1D().init(jax.random.key(0), random((2, 8, 8, 3)))
  with pytest.raises(ValueError, match="'max'"):
    audio_resnet.AudioResNet(pool="max").init(jax.random.key(0), random((1, 8, 8)))


def test_parts_of_time_follow_the_real_length_and_bands_the_bins():
  rng = np.random.default_rng(5)
  x, parts = rng.normal(size=(3, 9, 7, 2)), 4
  share = np.array([1.0, 4 / 9, 0.0])  # 9, 4 and no real steps: one counts
  got = audio_resnet.parts_of_time(jnp.asarray(x), jnp.asarray(share), parts)
  for row, length in enumerate((9, 4, 1)):
    for k in range(parts):
      centre, weight = (k + 0.5) * length / parts - 0.5, np.zeros(9)
      far = np.abs(np.arange(length) - centre) / (length / parts)
      weight[:length] = np.maximum(1 - far, 0)
      if weight.sum() < 1e-3:
        weight[far.argmin()] = 1
      want = (weight[:, None, None] * x[row]).sum(0) / weight.sum()
      np.testing.assert_allclose(got[row, k], want, rtol=1e-5, atol=1e-6)
  bands = audio_resnet.bands_of_bins(jnp.asarray(x), 3)  # of 2, 2 and 3 bins
  want = np.stack([x[:, :, a:b].mean(2) for a, b in ((0, 2), (2, 4), (4, 7))], 2)
  np.testing.assert_allclose(bands, want, rtol=1e-5, atol=1e-6)


def test_pool_parts_reads_real_frames_only():
  net = audio_resnet.AudioResNet((1,), (8,), 4, pool="parts", parts=3, bands=2)
  x = jnp.asarray(np.random.default_rng(6).normal(size=(2, 64, 16)), jnp.float32)
  frames = jnp.arange(64) < jnp.array([[64], [32]])
  variables = net.init(jax.random.key(0), x, frames=frames)
  out = net.apply(variables, x, frames=frames)["features"]
  assert out.shape == (2, 3 * 2 * 8)
  # What lies far behind the real frames is not seen.
  other = net.apply(variables, x.at[1, 56:].add(9.0), frames=frames)["features"]
  np.testing.assert_array_equal(out[1], other[1])
  assert not np.allclose(
    out[0], net.apply(variables, x.at[0, 56:].add(9.0))["features"][0]
  )
  # A neck: dense, BN with calibrated statistics, ReLU, over the same features.
  narrow = net.clone(neck=5)
  variables = narrow.init(jax.random.key(0), x, frames=frames)
  got, new = narrow.apply(
    variables, x, frames=frames, train=True, mutable=["batch_stats"]
  )
  dense, parts = variables["params"]["neck"], dict(variables["params"])
  del parts["neck"], parts["neck_bn"]
  trunk = {"trunk": variables["batch_stats"]["trunk"]}
  plain, _ = net.apply(
    {"params": parts, "batch_stats": trunk},
    x,
    frames=frames,
    train=True,
    mutable=["batch_stats"],
  )
  y = np.asarray(plain["features"] @ dense["kernel"] + dense["bias"])
  want = np.maximum((y - y.mean(0)) / np.sqrt(y.var(0) + 1e-5), 0)
  np.testing.assert_allclose(got["features"], want, atol=1e-4)
  assert new["batch_stats"]["neck_bn"]["mean"].shape == (5,)


SLOW = [pytest.param(k, marks=pytest.mark.slow) for k in ("r2plus1d", "tsm")]


@pytest.mark.parametrize("kind", ["mc3", *SLOW])
def test_recompute_changes_no_number(kind):
  """Gradients and running statistics, with a row that counts in neither."""
  sizes = dict(widths=(4, 8), depths=(1, 1))
  if kind == "tsm":
    make = lambda remat: tsm_resnet.TSMResNet(**sizes, stem_width=4, remat=remat)
  else:
    make = lambda remat: r2plus1d.R2Plus1D(kind=kind, **sizes, stem_mid=3, remat=remat)
  x, where = random((3, 4, 8, 8, 3)), np.array([True, True, False])
  variables = jax.jit(make("none").init)(jax.random.key(0), x)

  def grads_of(net):
    def loss(params):
      given = dict(train=True, where=where, mutable=["batch_stats"])
      out, new = net.apply(variables | {"params": params}, x, **given)
      return (out["features"] ** 2).sum(), new

    return jax.grad(loss, has_aux=True)

  want = jax.jit(grads_of(make("none")))(variables["params"])
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  for remat in ("dots", "full"):
    program = jax.make_jaxpr(grads_of(make(remat)))(variables["params"])
    least = 2 if kind == "tsm" else 3  # each block, and the stem
    assert str(program).count("remat") >= least
    got = jax.jit(grads_of(make(remat)))(variables["params"])
    jax.tree.map(close, got, want)
