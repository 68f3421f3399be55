"""HowTo100M: published outputs and counts, weights in and out, masks, a step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import helpers
from vlp_jax import batch as batch_lib
from vlp_jax.evaluators import ranks
from vlp_jax.importers import howto100m as importer
from vlp_jax.importers import word_table
from vlp_jax.models import howto100m
from vlp_jax.objectives import ranking


def make(variant="mu", vocab_size=30, **more):
  return howto100m.Model(vocab_size=vocab_size, **(howto100m.VARIANTS[variant] | more))


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0), batch_lib.zeros(model.spec()))


@pytest.mark.parametrize(("variant", "width"), [("released", 6144), ("paper", 4096)])
def test_published_parameter_counts(variant, width):
  params = dict(shapes(make(variant, 10))["params"])
  assert params.pop("words").shape == (10, 300)
  gate = lambda inputs: inputs * width + width + width * width + width
  want = 300 * width + width + gate(width) + gate(4096)
  assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params)) == want


def test_published_outputs_metrics_and_weights(tmp_path):
  arrays, given, want, _ = helpers.golden("howto100m")
  texts = given["text"]  # [5, 7, 12] word vectors
  table = np.concatenate([np.zeros((1, 12)), texts.reshape(-1, 12)])
  np.save(tmp_path / "words.npy", table.astype(np.float32))
  model = make(
    vocab_size=36, word_dim=12, embed_dim=16, feature_dims=(24,), unit_features=False
  )
  variables, report = importer.convert(
    {f"module.{k}": x for k, x in arrays.items()},
    model,
    words=str(tmp_path / "words.npy"),
  )
  assert not report.missing
  assert {k.split(".")[2] for k in report.unused} == {"batch_norm"}
  ids = 1 + np.arange(35, dtype=np.int32).reshape(5, 7)
  batch = {
    "clips_features": given["video"][:, None],
    "clips_mask": np.ones((5, 1), bool),
    "text_ids": ids,
    "text_mask": np.ones((5, 7), bool),
  }
  out = jax.jit(model.apply)(variables, batch)
  sim = out["text_embed"] @ out["video_embed"].T
  np.testing.assert_allclose(sim, want["sim"], atol=1e-5)
  np.testing.assert_array_equal(out["video_embed"], out["clips_embed"][:, 0])
  back = importer.export(variables)
  for name, x in back.items():
    np.testing.assert_array_equal(x, arrays[name])
  assert set(arrays) - set(back) == {k for k in arrays if "batch_norm" in k}
  scores = ranks.Table(given["scores"].astype(np.float64))
  pairs = np.arange(40)
  both, _ = ranks.cases(scores, pairs, pairs, np.zeros(40), np.zeros(40))
  found = dict(ranks.results("t2v", both))
  for k in (1, 5, 10):
    assert found[f"t2v_recall@{k}"].value == pytest.approx(float(want[f"metric_R{k}"]))
  assert found["t2v_median_rank"].value == float(want["metric_MR"])


def test_leftovers_are_errors_and_words_may_stay():
  arrays = helpers.golden("howto100m")[0]
  model = make(word_dim=12, embed_dim=16, feature_dims=(24,))
  _, report = importer.convert(arrays, model)
  assert report.missing == ("words",)
  with pytest.raises(ValueError, match="extra"):
    importer.convert({**arrays, "extra.weight": np.zeros(3)}, model)
  with pytest.raises(ValueError, match="video_gate/fc/bias"):
    importer.convert(
      {k: x for k, x in arrays.items() if k != "GU_video.fc.bias"}, model
    )
  with pytest.raises(ValueError, match="shapes differ"):
    importer.convert(arrays, make(word_dim=12, embed_dim=16))


def test_a_table_of_words_alone():
  model, table = make(), np.random.default_rng(0).normal(size=(30, 8))
  variables, report = word_table.convert({"array": table}, model)
  np.testing.assert_array_equal(variables["params"]["words"], np.float32(table))
  assert report.loaded == ("words",)
  assert "text_gate/fc/bias" in report.missing
  for arrays, at, message in (
    ({"array": table[:3]}, "", "shapes differ"),
    ({"array": table}, "text/words", "0 tables|1 tables"),
    ({"a": table, "b": table}, "", "expected one"),
  ):
    with pytest.raises(ValueError, match=message):
      word_table.convert(arrays, model, at=at)


def batch(rows=4, pairs=3, seed=0):
  rng = np.random.default_rng(seed)
  mask = np.arange(5) < rng.integers(1, 6, (rows, pairs, 1))
  return {
    "clips_features": rng.random((rows, pairs, 10)).astype(np.float32),
    "clips_mask": np.ones((rows, pairs), bool),
    "narration_ids": np.where(mask, rng.integers(1, 30, mask.shape), 0).astype(
      np.int32
    ),
    "narration_mask": mask,
    "example_id": np.arange(rows, dtype=np.int32),
  }


@pytest.fixture(scope="module")
def small():
  model = make()
  variables = jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))
  return model, variables, jax.jit(model.apply, static_argnames="method")


def test_outputs_by_hand_and_modalities(small):
  _, variables, run = small
  b = batch()
  batch_lib.check(b)
  out = run(variables, b)
  sizes = {k: x.shape for k, x in out.items()}
  assert sizes == {
    "clips_embed": (4, 3, 16),
    "video_embed": (4, 16),
    "text_embed": (4, 3, 16),
  }
  p = jax.tree.map(lambda x: np.asarray(x, np.float64), dict(variables["params"]))

  def gate(x, name):
    f = x @ p[name]["fc"]["kernel"] + p[name]["fc"]["bias"]
    g = f @ p[name]["gate"]["kernel"] + p[name]["gate"]["bias"]
    y = f / (1 + np.exp(-g))
    return y / np.linalg.norm(y)

  most = b["clips_features"][2].max(0).astype(np.float64)
  parts = [most[:6] / np.linalg.norm(most[:6]), most[6:] / np.linalg.norm(most[6:])]
  want = gate(np.concatenate(parts), "video_gate")
  np.testing.assert_allclose(out["video_embed"][2], want, atol=1e-5)
  words = np.where(
    b["narration_mask"][1, 2, :, None], p["words"][b["narration_ids"][1, 2]], 0
  )
  hidden = np.maximum(
    words @ p["text_pooling"]["kernel"] + p["text_pooling"]["bias"], 0
  )
  want = gate(hidden.max(0), "text_gate")
  np.testing.assert_allclose(out["text_embed"][1, 2], want, atol=1e-5)
  clips = {k: b[k] for k in ("clips_features", "clips_mask")}
  assert set(run(variables, clips)) == {"clips_embed", "video_embed"}
  text = {"text_ids": b["narration_ids"][:, 1], "text_mask": b["narration_mask"][:, 1]}
  alone = run(variables, text)
  np.testing.assert_allclose(alone["text_embed"], out["text_embed"][:, 1], atol=1e-6)
  assert set(run(variables, clips, method="encode_video")) == {"video_embed"}


def test_masks_and_widths(small):
  model, variables, run = small
  b = batch()
  b["clips_mask"][1], b["clips_mask"][2, 1:] = False, False
  b["narration_mask"][0, 2] = False
  out = run(variables, b)
  assert not out["video_embed"][1].any()
  assert not out["clips_embed"][1].any()
  assert not out["text_embed"][0, 2].any()
  np.testing.assert_allclose(out["video_embed"][2], out["clips_embed"][2, 0], atol=1e-6)
  wild = b | {"clips_features": b["clips_features"].copy()}
  wild["clips_features"][1], wild["clips_features"][2, 1:] = np.nan, 1e9
  wild["narration_ids"] = np.where(b["narration_mask"], b["narration_ids"], 10**6)
  same = run(variables, wild)
  for k, x in out.items():
    np.testing.assert_array_equal(x, same[k])
  with pytest.raises(ValueError, match=r"width 9; howto100m expects 6 \+ 4"):
    run(variables, b | {"clips_features": b["clips_features"][..., :9]})
  assert model.train_words


def test_a_few_steps_lower_the_loss(small):
  model, variables, _ = small
  b = batch(rows=4)
  b["clips_mask"][3, 1] = False
  b["clips_features"][3, 2] = 0  # an empty slice of features
  tx = optax.adam(1e-2)

  def apply(variables, batch, *, rng=None, train=False, method=None):
    return model.apply(variables, batch, train=train, method=method), {}

  @jax.jit
  def step(params, opt_state):
    def loss(params):
      terms, _, _ = ranking.max_margin(apply, {"params": params}, b, jax.random.key(0))
      return terms["ranking"].value

    value, grads = jax.value_and_grad(loss)(params)
    updates, opt_state = tx.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, value

  params, losses = variables["params"], []
  opt_state = tx.init(params)
  for _ in range(30):
    params, opt_state, value = step(params, opt_state)
    losses.append(float(value))
  assert np.isfinite(losses).all()
  assert losses[-1] < losses[0] - 0.05


def test_a_frozen_table_gets_no_gradient():
  model = make(train_words=False)
  variables = jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))
  b = {k: jnp.asarray(x) for k, x in batch(1, 1).items()}
  loss = lambda v: model.apply(v, b)["text_embed"].sum()
  grads = jax.jit(jax.grad(loss))(variables)["params"]
  assert not np.asarray(grads["words"]).any()
  assert np.asarray(grads["text_pooling"]["kernel"]).any()
