"""MIL-NCE: published counts and outputs, weights in and out, missing parts, a step."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import helpers
from vlp_jax import batch as batch_lib
from vlp_jax.importers import s3d as importer
from vlp_jax.models import mil_nce
from vlp_jax.objectives import contrastive

WORDS = 66_250


def make(variant="mu", vocab_size=30, **more):
  return mil_nce.Model(vocab_size=vocab_size, **(mil_nce.VARIANTS[variant] | more))


def count(tree):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0), batch_lib.zeros(model.spec()))


@pytest.mark.parametrize(
  ("variant", "video"), [("s3d", 9_670_800), ("s3d_repo", 9_649_872)]
)
def test_published_parameter_counts(variant, video):
  params = shapes(make(variant, WORDS))["params"]
  assert count(params["video_tower"]) == video
  assert count(params["text_tower"]) == 21_540_536
  assert count(params["text_tower"]["words"]) == 19_875_000
  assert count(params) == video + 21_540_536  # 31,211,336 in the released net


def test_quick_is_small():
  assert count(shapes(make("quick", 300))["params"]) < 500_000


# ----- published outputs and weights


def filled(name, shape):
  """An entry of the golden files that hold names and shapes only."""
  if not shape:  # num_batches_tracked
    return np.zeros(())
  rng = np.random.RandomState(zlib.crc32(name.encode()) & 0x7FFFFFFF)
  if name.endswith("running_var"):
    return (0.5 + rng.rand(*shape)).astype(np.float32)
  if name.endswith("running_mean"):
    return (0.1 * rng.randn(*shape)).astype(np.float32)
  if len(shape) == 1:
    base = 1.0 if name.endswith("weight") else 0.0
    return (base + 0.1 * rng.randn(*shape)).astype(np.float32)
  return (rng.randn(*shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


@pytest.mark.slow
def test_published_outputs_of_every_stage():
  _, inputs, outputs, meta = helpers.golden("s3d_recipe")
  arrays = {k: filled(k, shape) for k, shape in meta["keys"].items()}
  assert count({k: x for k, x in arrays.items() if x.shape}) > meta["nparams"]
  model = make("s3d", WORDS)
  variables, report = importer.convert(arrays, model)
  assert not report.unused
  assert not report.missing
  ids = np.zeros((3, 16), np.int32)  # "w1 w5 w7", "w3", "unknown w9"; word wK is K + 1
  ids[0, :3], ids[1, 0], ids[2, 0] = (2, 6, 8), 4, 10
  frames = jnp.asarray(inputs["video"].transpose(0, 2, 3, 4, 1))
  batch = {"video_frames": frames, "video_mask": jnp.ones(frames.shape[:2], bool)}
  text = {"text_ids": jnp.asarray(ids), "text_mask": jnp.asarray(ids > 0)}

  @jax.jit
  def run(variables, batch, text):
    out = model.apply(variables, batch) | model.apply(variables, text)
    return out, model.apply(variables, batch, method="video_stages")

  out, stages = run(variables, batch, text)
  near = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)
  near(out["video_embed"], outputs["video_embedding"])
  near(out["video_features"], outputs["mixed_5c"])
  near(out["text_embed"], outputs["text_embedding"])
  assert len(stages) == 17
  for name, x in stages.items():
    x = np.moveaxis(np.asarray(x), -1, 1)  # [B, C, T, H, W] there
    assert x.shape == tuple(outputs[f"shape/{name}"])
    near(x.ravel()[:256], outputs[f"act/{name}"])


def test_weights_go_out_and_come_back():
  model = make("mu")
  variables = jax.jit(model.init)(jax.random.key(3), batch_lib.zeros(model.spec()))
  arrays = importer.export(variables)
  assert arrays["conv1.conv1.weight"].shape == (8, 24, 2, 2, 2)
  assert arrays["text_module.fc1.weight"].shape == (16, 8)
  assert "mixed_3b.conv_b1_b.bn2.running_var" in arrays
  published = {f"module.{k}": x for k, x in arrays.items()}
  published["module.conv1.bn1.num_batches_tracked"] = np.array(7)
  back, report = importer.convert(published, model)
  jax.tree.map(np.testing.assert_array_equal, back, dict(variables))
  assert len(report.loaded) == len(arrays)
  assert "params/video_tower/fc/kernel" in report.reshaped
  spare = published | {"module.extra.weight": np.zeros(3)}
  with pytest.raises(ValueError, match=r"extra\.weight"):
    importer.convert(spare, model)
  del published["module.gating.fc.bias"]
  with pytest.raises(ValueError, match="gating/fc/bias"):
    importer.convert(published, model)


def test_names_are_those_of_the_released_file():
  meta = helpers.golden("s3d_recipe")[-1]
  want = {k for k in meta["keys"] if not k.endswith("num_batches_tracked")}
  leaves = jax.tree_util.tree_leaves_with_path(shapes(make("s3d", WORDS)))
  paths = [jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in leaves]
  assert {importer.published(p) for p in paths} == want


# ----- batches


def batch(rows=4, seed=0):
  rng = np.random.default_rng(seed)
  ids = rng.integers(1, 30, (rows, 3, 5)).astype(np.int32)
  mask = np.arange(5) < rng.integers(1, 6, (rows, 3, 1))
  frames = rng.integers(0, 256, (rows, 8, 32, 32, 3)).astype(np.uint8)
  return {
    "video_frames": frames,
    "video_mask": np.ones((rows, 8), bool),
    "narration_ids": np.where(mask, ids, 0),
    "narration_mask": mask,
    "example_id": np.arange(rows, dtype=np.int32),
  }


@pytest.fixture(scope="module")
def small():
  """(model, variables, compiled evaluation run)."""
  model = make("mu")
  variables = jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))
  return model, variables, jax.jit(model.apply)


def test_outputs_and_missing_modalities(small):
  model, variables, run = small
  b = batch()
  batch_lib.check(b)
  out = run(variables, b)
  sizes = {k: x.shape for k, x in out.items()}
  assert sizes == {
    "video_embed": (4, 16),
    "video_features": (4, 16),
    "text_embed": (4, 3, 16),
  }
  video = {k: b[k] for k in ("video_frames", "video_mask")}
  text = {"text_ids": b["narration_ids"][:, 1], "text_mask": b["narration_mask"][:, 1]}
  alone = run(variables, video)
  assert set(alone) == {"video_embed", "video_features"}
  np.testing.assert_allclose(alone["video_embed"], out["video_embed"], atol=1e-6)
  words = run(variables, text)
  np.testing.assert_allclose(words["text_embed"], out["text_embed"][:, 1], atol=1e-6)
  same = model.apply(variables, text, method="encode_text")["text_embed"]
  np.testing.assert_array_equal(same, words["text_embed"])


def test_masked_rows_and_frames(small):
  _, variables, run = small
  b = batch()
  b["video_mask"] = b["video_mask"].copy()
  b["video_mask"][1], b["video_mask"][2, 5:] = False, False
  b["narration_mask"] = b["narration_mask"].copy()
  b["narration_mask"][0, 2] = False
  out = run(variables, b)
  assert not out["video_embed"][1].any()
  assert not out["video_features"][1].any()
  assert not out["text_embed"][0, 2].any()
  black = b | {"video_frames": b["video_frames"].copy()}
  black["video_frames"][2, 5:] = 0  # what stands behind the mask does not matter
  black["video_frames"][1] = 99
  same = run(variables, black)
  np.testing.assert_array_equal(out["video_embed"], same["video_embed"])
  assert (out["video_embed"][2] != run(variables, batch())["video_embed"][2]).any()


def test_colour_histogram_has_the_same_outputs():
  model = make("mu", video="colour_histogram")
  variables = jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))
  out = model.apply(variables, batch())
  assert out["video_embed"].shape == (4, 16)
  assert out["text_embed"].shape == (4, 3, 16)
  with pytest.raises(ValueError, match="video='s3d'"):
    model.apply(variables, batch(), method="video_stages")
  with pytest.raises(ValueError, match="'s3e'"):
    shapes(make("mu", video="s3e"))


def test_a_few_steps_lower_the_loss(small):
  model, variables, _ = small
  b = batch(8)
  b["video_mask"] = b["video_mask"].copy()
  b["video_mask"][7] = False
  tx = optax.adam(3e-3)

  def apply(variables, batch, *, rng=None, train=False, method=None):
    del rng
    return model.apply(
      variables, batch, train=train, method=method, mutable=["batch_stats"]
    )

  @jax.jit
  def step(params, rest, opt_state, b):
    def loss(params):
      terms, _, new = contrastive.mil_nce(
        apply, rest | {"params": params}, b, jax.random.key(0)
      )
      return terms["mil_nce"].value, new

    (value, new), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), rest | new, opt_state, value

  params, rest = variables["params"], {"batch_stats": variables["batch_stats"]}
  opt_state, losses = tx.init(params), []
  for _ in range(8):
    params, rest, opt_state, value = step(params, rest, opt_state, b)
    losses.append(float(value))
  assert all(np.isfinite(losses))
  assert losses[-1] < losses[0] - 0.1
  moved = rest["batch_stats"]["video_tower"]["conv1"]["bn1"]["mean"]
  assert np.abs(moved).max() > 0
