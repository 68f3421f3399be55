"""Released layouts of MMV and XDC: names, counts, leftovers; deflated kernels."""

import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import helpers
from tests.reference import haiku
from vlp_jax import importers
from vlp_jax import state as state_lib
from vlp_jax.formats import read as read_lib
from vlp_jax.importers import deflate
from vlp_jax.importers import mmv as importer
from vlp_jax.importers import r2plus1d as xdc
from vlp_jax.models import deflated, mmv
from vlp_jax.objectives import deflation
from vlp_jax.towers import r2plus1d, s3d, tsm_resnet


def model(variant, vocab_size=50, **more):
  return mmv.Model(vocab_size=vocab_size, **(mmv.VARIANTS[variant] | more))


def test_every_name_of_the_published_tree_is_ours():
  meta = helpers.golden("mmv_s3d_recipe")[-1]
  theirs = {f"{g}/{k}" for g in ("params", "state") for k in meta[g]}
  theirs = {re.sub(r"/~(_get_pair_embedding_heads)?(?=/)", "", k) for k in theirs}
  theirs = {k for k in theirs if not k.endswith(("/counter", "/hidden"))}
  ours = {importer.published(k) for k in importers.all_shapes(model("s3d_plain"))}
  assert ours == theirs
  assert len(ours) == 475 + 256


def tree(net):
  """A random tree in Haiku's spelling, with the folders and axes that ours drop."""
  rng, out = np.random.default_rng(0), {}
  for path, shape in importers.all_shapes(net).items():
    name = importer.published(path)
    x = rng.normal(size=shape).astype(np.float32)
    name = name.replace("text_audio_video/", "text_audio_video/~/", 1)
    name = name.replace("__batch_norm", "__cross_replica_batch_norm")
    if path.endswith(("/scale", "/mean", "/var")) or "bn" in path.split("/")[-2]:
      x = x.reshape(*[1] * 3, -1)
    if path.endswith("fc1/kernel"):
      x = x[None]
    out[name] = x
    if path.startswith("batch_stats"):
      out[name.replace("average", "hidden")] = x + 1
      out[name.replace("average", "counter")] = np.zeros((), np.int32)
  return out


@pytest.mark.parametrize("video", ["s3d", "tsm_resnet"])
def test_a_tree_comes_in_from_a_pickle_whole(tmp_path, video):
  if video == "s3d":
    net = model("mu")
  else:
    small = dict(depths=(2, 1), widths=(8, 16), stem_width=4)
    net = model("mu", video="tsm_resnet", video_args=small)
  flat = tree(net)
  nested = {"params": {}, "state": {}}
  for name, x in flat.items():
    group, path = name.split("/", 1)
    module, _, leaf = path.rpartition("/")
    nested[group].setdefault(module, {})[leaf] = x
  (tmp_path / "mmv.pkl").write_bytes(pickle.dumps(nested))
  arrays = read_lib.read(tmp_path / "mmv.pkl")
  variables, report = importer.convert(arrays, net)
  want = importers.all_shapes(net)
  assert set(report.loaded) == set(want)
  assert not report.missing
  got = jax.tree_util.tree_leaves_with_path(variables)
  for path, x in got:
    key = jax.tree_util.keystr(path, simple=True, separator="/")
    name = importer.published(key).replace(
      "text_audio_video/", "text_audio_video/~/", 1
    )
    name = name.replace("__batch_norm", "__cross_replica_batch_norm")
    np.testing.assert_array_equal(x.ravel(), flat[name].ravel())
  for head in ("audio2txt_embd", "txt2audio_embd"):  # made by no loss: may be missing
    flat = {k: x for k, x in flat.items() if head not in k}
  _, report = importer.convert(flat, net)
  assert len(report.missing) == 4
  with pytest.raises(ValueError, match="extra"):
    importer.convert(flat | {"params/extra/w": np.zeros(3)}, net)
  spare = next(k for k in flat if k.endswith("vis_embd/final_projection/b"))
  del flat[spare]
  with pytest.raises(ValueError, match="video_to_text/final/bias"):
    importer.convert(flat, net)


# ----- XDC


def torch_array(key, shape):
  """Weights of torch names by rule, as in the golden."""
  rng, shape = haiku.draw(key, shape)
  if key.endswith("running_var"):
    return (0.5 + rng.rand(*shape)).astype(np.float32)
  if key.endswith("running_mean"):
    return (0.1 * rng.randn(*shape)).astype(np.float32)
  if len(shape) <= 1:
    return ((1.0 if key.endswith("weight") else 0.0) + 0.1 * rng.randn(*shape)).astype(
      np.float32
    )
  return (rng.randn(*shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


XDC = dict(middles="each", bn_eps=1e-3)


@pytest.mark.slow
def test_published_outputs_of_xdc():
  _, inputs, outputs, meta = helpers.golden("r2plus1d_xdc_recipe")
  arrays = {k: torch_array(k, shape) for k, shape in meta["keys"].items()}
  net = model("r2plus1d", video_args=XDC)
  variables, report = xdc.convert(arrays, net)
  assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 33_165_639
  assert set(report.unused) == {"fc.weight", "fc.bias"}
  assert all("video_tower" not in k for k in report.missing)
  tower = r2plus1d.R2Plus1D(**XDC)
  mine = {k: x["video_tower"] for k, x in variables.items()}
  frames = jnp.asarray(inputs["video"].transpose(0, 2, 3, 4, 1))
  out = jax.jit(lambda v, x: tower.apply(v, x, stages=True))(mine, frames)
  near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)
  near(out["features"], outputs["pooled"])
  logits = out["features"] @ arrays["fc.weight"].T + arrays["fc.bias"]
  near(logits, outputs["logits"])
  for name, x in out["stages"].items():
    x = np.moveaxis(np.asarray(x), -1, 1)
    assert x.shape == tuple(outputs[f"shape/{name}"])
    near(x.ravel()[:256], outputs[f"act/{name}"])


def test_names_of_xdc_and_of_plain_stems():
  meta = helpers.golden("r2plus1d_xdc_recipe")[-1]
  want = {k for k in meta["keys"] if not k.startswith("fc.")}
  want = {k for k in want if not k.endswith("num_batches_tracked")}
  net = model("r2plus1d", video_args=XDC)
  paths = [k for k in importers.all_shapes(net) if "/video_tower/" in k]
  assert {xdc.published(k) for k in paths} == want
  name = xdc.published("params/video_tower/stem_bn/scale", plain_stem=True)
  assert name == "stem.1.weight"
  name = xdc.published("params/video_tower/layer2_1/conv2/conv/kernel")
  assert name == "layer2.1.conv2.0.weight"
  with pytest.raises(ValueError, match="no 'clip_tower'"):
    xdc.convert({}, net, tower="clip_tower")


# ----- deflation


STAGES = (
  ("conv_2c", "separable", 6),
  ("gating", "gate"),
  ("maxpool_4a", "pool", (3, 3, 3), (2, 2, 2)),
)
BLOCKS = (*STAGES, ("mixed_3b", "inception", 4, 4, 4, 4, 4, 4))
VIDEO = dict(stem_width=6, stem_window=(2, 2, 2), stages=STAGES)


def still(frames=6, size=16):
  rng = np.random.default_rng(1)
  pictures = rng.integers(0, 256, (2, 1, size, size, 3)).astype(np.uint8)
  return pictures, np.repeat(pictures, frames, axis=1)


def scrambled(tree, seed=0):
  """Values that no initialiser gives, so that scales and statistics matter."""
  rng = np.random.default_rng(seed)

  def one(path, x):
    draw = rng.normal(size=x.shape).astype(np.float32)
    if path[-1].key == "var":
      return 0.5 + np.abs(draw)
    return draw * (0.3 if x.ndim == 1 else 1 / np.sqrt(np.prod(x.shape[:-1])))

  return jax.tree_util.tree_map_with_path(one, tree)


def deflated_variables(variables, block):
  out = {}
  for group, mine in variables.items():
    leaves = jax.tree_util.tree_leaves_with_path(mine)
    flat = {
      jax.tree_util.keystr(p, simple=True, separator="/"): np.asarray(x)
      for p, x in leaves
    }
    new = deflate.tower(flat, block=block)
    treedef = jax.tree.structure(mine)
    out[group] = jax.tree.unflatten(treedef, [new[k] for k in flat])
  return out


@pytest.mark.parametrize("stem", ["folded", "plain", "torch"])
def test_a_still_clip_and_its_picture_agree_but_for_the_zeros(stem):
  stages = BLOCKS if stem == "folded" else STAGES
  fields = dict(embed_dim=0, stem_width=6, stages=stages)
  if stem != "torch":
    fields |= s3d.MMV
  block = 2
  if stem == "plain":
    fields |= dict(space_to_depth=(), stem_window=(3, 5, 5), stem_strides=(2, 2, 2))
    block = 1
  pictures, clips = still()
  net = s3d.S3D(**fields, time_padding="edge")
  image = s3d.S3D(**fields, deflated=True)
  variables = scrambled(jax.eval_shape(net.init, jax.random.key(0), clips))
  flat = deflated_variables(variables, block)
  shape = lambda tree: jax.tree.map(lambda x: x.shape, tree)
  assert shape(flat) == shape(jax.eval_shape(image.init, jax.random.key(0), pictures))
  got = jax.jit(image.apply)(flat, pictures)["features"]
  want = jax.jit(net.apply)(variables, clips)["features"]
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
  zeros = jax.jit(s3d.S3D(**fields).apply)(variables, clips)["features"]
  assert np.abs(zeros - want).max() > 1e-3


def test_a_still_clip_and_its_picture_agree_in_tsm_resnet():
  fields = dict(depths=(1, 1), widths=(16, 32), stem_width=8)
  pictures, clips = still(size=32)
  net = tsm_resnet.TSMResNet(**fields, time_padding="edge")
  variables = scrambled(jax.eval_shape(net.init, jax.random.key(0), clips))
  image = tsm_resnet.TSMResNet(**fields, deflated=True)
  got = jax.jit(image.apply)(variables, pictures)["features"]
  want = jax.jit(net.apply)(variables, clips)["features"]
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


def test_a_run_of_ours_becomes_both_networks():
  """By its own names; the small variants of both models fit."""
  rng, own = np.random.default_rng(0), model("small")
  arrays = {
    k: rng.normal(size=shape).astype(np.float32)
    for k, shape in importers.all_shapes(own).items()
  }
  net = deflated.Model(**deflated.VARIANTS["small"])
  variables, report = deflate.convert(arrays, net)
  assert not report.missing
  assert all(k.split("/")[1] != "video_tower" for k in report.unused)
  towers = variables["params"]
  deep = towers["video_tower"]["conv_2c"]["conv2"]["kernel"]
  np.testing.assert_array_equal(deep, arrays["params/video_tower/conv_2c/conv2/kernel"])
  flat = towers["image_tower"]["conv_2c"]["conv2"]["kernel"]
  np.testing.assert_allclose(flat, deep.sum(0, keepdims=True), rtol=1e-6)
  assert deep.shape[0] == 3


def test_a_released_file_becomes_both_networks():
  source = tree(model("mu", video_args=VIDEO))
  net = deflated.Model(video_args=VIDEO, num_frames=4)
  variables, report = deflate.convert(source, net)
  assert not report.missing
  assert report.surgery == ("kernels summed over time",)
  stem = {
    k: variables["params"][f"{k}_tower"]["conv1"]["conv1"]["kernel"]
    for k in ("video", "image")
  }
  assert stem["video"].shape == (2, 2, 2, 24, 6)
  assert stem["image"].shape == (1, 2, 2, 12, 6)
  want = stem["video"][..., :12, :].sum(0) + stem["video"][..., 12:, :].sum(0)
  np.testing.assert_allclose(stem["image"][0], want, atol=1e-5)
  jax.tree.map(
    np.testing.assert_array_equal,
    variables["batch_stats"]["video_tower"],
    variables["batch_stats"]["image_tower"],
  )


def test_fitting_the_norms_lowers_the_gap():
  net = deflated.Model(video_args=VIDEO, num_frames=4)
  variables, _ = deflate.convert(tree(model("mu", video_args=VIDEO)), net)
  variables["batch_stats"] = jax.tree.map(np.abs, variables["batch_stats"])
  variables = jax.tree.map(jnp.asarray, variables)
  apply, pictures = state_lib.make_apply(net), still()[0]
  learned = re.compile(r"image_tower/.*bn[^/]*/(scale|bias)$")
  name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
  mask = jax.tree_util.tree_map_with_path(
    lambda p, _: bool(learned.search(name(p))), variables["params"]
  )
  tx = optax.chain(
    optax.masked(optax.adam(2e-2), mask),
    optax.masked(optax.set_to_zero(), jax.tree.map(lambda m: not m, mask)),
  )
  batch = {"video_frames": pictures}
  rest = {"batch_stats": variables["batch_stats"]}

  @jax.jit
  def step(params, opt_state):
    def loss(params):
      terms, _, _ = deflation.l1(
        apply, rest | {"params": params}, batch, jax.random.key(0)
      )
      return terms["l1"].value

    value, grads = jax.value_and_grad(loss)(params)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, value

  params, opt_state, values = variables["params"], tx.init(variables["params"]), []
  for _ in range(25):
    params, opt_state, value = step(params, opt_state)
    values.append(float(value))
  assert values[-1] < 0.7 * values[0]
  same = lambda a, b: np.testing.assert_array_equal(a, b)
  jax.tree.map(same, params["video_tower"], variables["params"]["video_tower"])
  kernels = lambda p: p["image_tower"]["conv1"]["conv1"]
  jax.tree.map(same, kernels(params), kernels(variables["params"]))
