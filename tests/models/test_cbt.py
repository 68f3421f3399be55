"""CBT: its losses against loops, what is frozen, hidden steps, stages, learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import filled
from tests.reference import pairs_nce as reference
from vlp_jax import importers
from vlp_jax.importers import bert as bert_importer
from vlp_jax.importers import cbt as importer
from vlp_jax.importers import s3d
from vlp_jax.models import bert, cbt
from vlp_jax.objectives import cbt as objectives
from vlp_jax.vocab import Vocab

VOCAB = Vocab(
  40, cls_id=1, sep_id=2, mask_id=3, special_ids=(0, 1, 2, 3), valid_range=(4, 40)
)
KEY = jax.random.key(9)


def model(**more):
  return cbt.Model(**({"vocab_size": 40, "dropout": 0.0} | cbt.MU | more))


def test_parameter_counts():
  sizes = importers.shapes(cbt.Model(vocab_size=30_522))
  of = lambda at: sum(int(np.prod(x)) for k, x in sizes.items() if k.startswith(at))
  assert of("text_tower/") == 109_482_240 - 590_592  # BERT-base without its pooler
  layer = 7_087_872
  assert of("visual/") == 2 * layer
  assert of("cross/stack/") == layer
  assert of("embed/") == 1024 * 768 + 768


@pytest.fixture(scope="module")
def small():
  m = model(num_classes=3)
  return m, filled.variables(m), jax.jit(m.apply)


def rows(count=6, steps=5, length=4, seed=0):
  rng = np.random.default_rng(seed)
  ids = rng.integers(4, 40, (count, length))
  out = {
    "clips_features": rng.normal(size=(count, steps, 24)).astype(np.float32),
    "clips_mask": np.arange(steps) < rng.integers(2, steps + 1, (count, 1)),
    "text_ids": ids.astype(np.int32),
    "text_mask": np.arange(length) < rng.integers(2, length + 1, (count, 1)),
    "example_id": np.arange(count, dtype=np.int32),
    "group_id": (np.arange(count) // 2).astype(np.int32),
  }
  return {k: jnp.asarray(x) for k, x in out.items()}


def shown(batch, **more):
  keys = ("clips_features", "clips_mask", "text_ids", "text_mask")
  hidden = jnp.zeros_like(batch["clips_mask"]).at[:, 1].set(True)
  pairs = (jnp.arange(6)[:, None] + jnp.arange(6)) % 6
  out = {k: batch[k] for k in keys}
  return out | {"clips_masked": hidden, "pair_text": pairs} | more


def test_hidden_steps_and_padding_are_not_seen(small):
  _, variables, run = small
  batch = shown(rows())
  out = run(variables, batch)
  where = batch["clips_mask"] & ~batch["clips_masked"]
  x = batch["clips_features"]
  other = batch | {
    "clips_features": jnp.where(where[..., None], x, 7.0),
    "text_ids": jnp.where(batch["text_mask"], batch["text_ids"], 9),
  }
  got = run(variables, other)
  np.testing.assert_allclose(got["predicted"], out["predicted"], atol=1e-5)
  assert np.abs(got["video"] - out["video"]).max() > 1e-3  # nothing is hidden there
  only = batch | {"clips_features": jnp.where(batch["clips_mask"][..., None], x, 7.0)}
  got = run(variables, only | {"text_ids": other["text_ids"]})
  for name in ("video", "video_features", "pair_scores", "text", "logits"):
    np.testing.assert_allclose(got[name], out[name], atol=1e-5, err_msg=name)
  mean = (
    np.asarray(out["video"]).sum(1) / np.asarray(batch["clips_mask"]).sum(1)[:, None]
  )
  np.testing.assert_allclose(out["video_features"], mean, atol=1e-5)


def test_each_step_hidden_by_itself_is_m_passes(small):
  m, variables, run = small
  batch = shown(rows())
  eye = jnp.broadcast_to(jnp.eye(5, dtype=bool), (6, 5, 5))
  got = jax.jit(m.apply)(variables, batch | {"clips_masked": eye})["predicted"]
  want = run(variables, batch)["predicted"]  # the second step is hidden
  np.testing.assert_allclose(got[:, 1], want, atol=1e-5)


def test_scores_are_of_the_named_texts(small):
  _, variables, run = small
  batch = shown(rows())
  scores = np.asarray(run(variables, batch)["pair_scores"])  # column k: text i + k
  order = np.array([3, 1, 0, 5, 4, 2])
  mixed = batch | {k: batch[k][order] for k in ("text_ids", "text_mask")}
  got = np.asarray(run(variables, mixed)["pair_scores"])
  for i in range(6):
    for k in range(6):
      want = scores[i, (order[(i + k) % 6] - i) % 6]
      np.testing.assert_allclose(got[i, k], want, atol=1e-5)


# ----- the losses against loops


def test_visual_nce_agrees_with_loops():
  rng = np.random.default_rng(0)
  steps, predicted = rng.normal(size=(3, 4, 6)), rng.normal(size=(3, 2, 6))
  positions = np.array([[0, 2], [1, 3], [0, 1]])
  real = np.arange(4) < np.array([[4], [4], [2]])
  where = np.array([[True, True], [True, False], [False, True]])
  given = dict(where=jnp.asarray(where), steps_where=jnp.asarray(real))
  fn = functools.partial(objectives.visual_nce, **given)
  loss, right = fn(jnp.asarray(steps), jnp.asarray(predicted), jnp.asarray(positions))
  want = reference.visual(steps, predicted, positions, where, real)
  np.testing.assert_allclose(np.asarray(loss)[where].mean(), want, rtol=1e-5)
  assert not np.asarray(loss)[~where].any()
  assert not np.asarray(right)[~where].any()
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  loss, _ = fn(steps, predicted, positions, normalise=True, tau=0.5)
  scaled = unit(steps) / 0.5, unit(predicted)
  want = reference.visual(*scaled, positions, where, real)
  np.testing.assert_allclose(np.asarray(loss)[where].mean(), want, rtol=1e-5)
  # Padding gives no gradient, wherever it lies, and an empty row none at all.
  total = lambda s: fn(s, jnp.asarray(predicted), jnp.asarray(positions))[0].sum()
  grad = np.asarray(jax.grad(total)(jnp.asarray(steps)))
  assert not grad[2, 2:].any()
  assert np.isfinite(grad).all()
  none = jax.grad(
    lambda s: objectives.visual_nce(
      s,
      jnp.asarray(predicted),
      jnp.asarray(positions),
      where=jnp.zeros((3, 2), bool),
      steps_where=jnp.zeros((3, 4), bool),
    )[0].sum()
  )(jnp.asarray(steps))
  assert not np.asarray(none).any()


@pytest.mark.parametrize("num_negatives", [None, 2])
def test_partners_are_the_own_text_and_those_of_other_videos(num_negatives):
  group = jnp.array([0, 0, 1, 1, 2, 3])
  real = jnp.array([True, True, True, False, True, True])
  index, where = objectives.partners(
    KEY, jnp.arange(6), group, real, num_negatives=num_negatives
  )
  index, where = np.asarray(index), np.asarray(where)
  assert (index[:, 0] == np.arange(6)).all()
  assert (where[:, 0] == np.asarray(real)).all()
  for i in range(6):
    own = index[i, 1:][where[i, 1:]]
    assert len(set(own)) == len(own)
    allowed = {j for j in range(6) if real[j] and group[j] != group[i]}
    assert set(own) <= allowed
    assert len(own) == (len(allowed) if num_negatives is None else 2)


def spied(small, **given):
  m, variables, _ = small
  seen = {}

  def apply(variables, batch, *, rng=None, train=False, method=None):
    out = m.apply(variables, batch, method=method)
    if method is None:
      seen["batch"], seen["out"] = dict(batch), out
    return out, {}

  def run(batch):
    fn = functools.partial(objectives.cbt, vocab=VOCAB, **given)
    terms, aux, _ = fn(apply, variables, batch, KEY)
    return seen["batch"], seen["out"], terms, aux

  return jax.jit(run)


def test_both_losses_of_a_batch_agree_with_loops(small):
  batch = rows() | {"example_mask": jnp.arange(6) != 4}
  given, out, terms, aux = spied(small, cross_coef=0.5)(batch)
  rows_, hidden = np.asarray(batch["example_mask"]), np.asarray(given["clips_masked"])
  real = np.asarray(batch["clips_mask"]) & rows_[:, None]
  assert (hidden <= real).all()
  assert hidden[rows_].any(axis=1).all()
  places = np.tile(np.arange(5), (6, 1))
  want = reference.visual(
    np.asarray(out["steps"]), np.asarray(out["predicted"]), places, hidden, real
  )
  np.testing.assert_allclose(terms["visual"].value, want, rtol=1e-4)
  square = np.zeros((6, 6))
  index, scores = np.asarray(given["pair_text"]), np.asarray(out["pair_scores"])
  np.put_along_axis(square, index, scores, axis=1)
  own = [i for i in range(6) if rows_[i]]
  want = reference.cross(square, own, np.asarray(batch["group_id"]), rows_)
  np.testing.assert_allclose(terms["cross"].value, 0.5 * want, rtol=1e-4)
  assert set(aux) == {"visual/accuracy", "visual/overflow", "cross/accuracy"}


def test_a_loss_without_weight_is_not_computed(small):
  given, out, terms, _ = spied(small)(rows())
  assert set(terms) == {"visual"}
  assert "text" not in out
  assert "pair_text" not in given
  given, _, terms, _ = spied(small, visual_coef=0.0, cross_coef=1.0)(rows())
  assert set(terms) == {"cross"}
  assert "clips_masked" not in given
  with pytest.raises(ValueError, match="all three"):
    spied(small, visual_coef=0.0)(rows())


# ----- towers that are frozen, or learn


def grads(m, objective):
  batch = rows() | {"label": jnp.array([0, 1, 2, 0, -1, 1])}
  variables = filled.variables(m)
  rest = {k: x for k, x in variables.items() if k != "params"}

  def apply(variables, batch, *, rng=None, train=False, method=None):
    given = dict(train=True, rngs={} if rng is None else {"dropout": rng})
    return m.apply(variables, batch, method=method, **given), {}

  def loss(params):
    terms, _, _ = objective(apply, rest | {"params": params}, batch, KEY)
    return sum(t.value for t in terms.values())

  return jax.jit(jax.grad(loss))(variables["params"])


def largest(tree):
  return max(float(jnp.abs(x).max()) for x in jax.tree.leaves(tree))


def test_a_frozen_bert_gets_no_gradient_and_a_free_one_learns_words():
  fn = functools.partial(objectives.cbt, vocab=VOCAB, visual_coef=0.0)
  got = grads(model(), functools.partial(fn, cross_coef=1.0, num_negatives=1))
  assert largest(got["text_tower"]) == 0
  assert largest(got["visual"]) > 0
  assert largest(got["cross"]) > 0
  free = model(train_text=True, mlm=True)
  got = grads(free, functools.partial(fn, bert_coef=1.0))
  assert largest(got["text_tower"]) > 0
  assert largest(got["mlm_head"]) > 0


def test_frames_go_through_s3d_with_shared_weights():
  m = model(video="s3d", train_video=True, num_classes=3)
  variables = filled.variables(m)
  frames = jax.random.randint(KEY, (2, 2, 8, 32, 32, 3), 0, 256).astype(jnp.uint8)
  frames = frames.at[1, 1].set(frames[0, 0])
  batch = {"video_frames": frames, "video_mask": jnp.ones((2, 2, 8), bool)}
  run = jax.jit(functools.partial(m.apply, train=False))
  out = run(variables, batch)
  np.testing.assert_allclose(out["steps"][1, 1], out["steps"][0, 0], atol=1e-6)
  assert out["logits"].shape == (2, 3)
  row = lambda x: x.reshape(2, 16, *x.shape[3:])  # one window behind the other
  behind = run(variables, {k: row(x) for k, x in batch.items()})
  np.testing.assert_allclose(behind["steps"], out["steps"], atol=1e-5)
  with pytest.raises(ValueError, match="12 frames do not divide"):
    m.apply(variables, {k: row(x)[:, :12] for k, x in batch.items()})
  gone = batch | {"video_mask": batch["video_mask"].at[0, 1].set(False)}
  assert not np.asarray(run(variables, gone)["video"])[0, 1].any()
  held = model(video="s3d", num_classes=3)

  def total(params):
    rest = {"batch_stats": variables["batch_stats"]}
    given = dict(train=True, mutable=["batch_stats"])
    out, _ = held.apply({"params": params} | rest, batch, **given)
    return jnp.square(out["steps"]).sum()

  got = jax.jit(jax.grad(total))(variables["params"])
  assert largest(got["video_tower"]) == 0
  assert largest(got["embed"]) > 0


@pytest.mark.parametrize(("mask", "count"), [("rate", 3), ("each", 4)])
def test_windows_one_behind_the_other_have_the_same_loss(mask, count):
  """Of any number of rows, also of as many as there are windows."""
  m = model(video="s3d")
  variables = filled.variables(m)
  shape = (count, 3, 8)
  frames = jax.random.randint(KEY, (*shape, 32, 32, 3), 0, 256).astype(jnp.uint8)
  real = jnp.ones(shape, bool).at[0, 1, 4:].set(False).at[1, 2].set(False)
  text = {k: rows(count)[k] for k in ("text_ids", "text_mask", "example_id")}
  flat = lambda x: x.reshape(count, 24, *x.shape[3:])
  cut = {"video_frames": frames, "video_mask": real}
  behind = {k: flat(x) for k, x in cut.items()}
  given = dict(mask=mask, cross_coef=1.0, rate=0.5)
  run = spied((m, variables, None), **given)
  seen, out, want, _ = run(cut | text)
  hidden, _, got, _ = run(behind | text)
  same = "clips_masked"
  np.testing.assert_array_equal(hidden[same], seen[same])
  assert not np.asarray(seen[same])[1, ..., 2].any()  # a window without a frame
  np.testing.assert_array_equal(out["video_mask"], np.asarray(real).any(-1))
  assert want["visual"].weight == (
    3 * count - 1 if mask == "each" else seen[same].sum()
  )
  for name in ("visual", "cross"):
    np.testing.assert_allclose(got[name].value, want[name].value, rtol=1e-5)
    assert got[name].weight == want[name].weight


def test_it_starts_from_bert():
  net = bert.Model(
    vocab_size=40, width=24, depth=1, num_heads=2, max_positions=64, heads=("mlm",)
  )
  torch = bert_importer.export(filled.variables(net))
  variables, report = importer.convert(torch, model(mlm=True))
  assert {k.split("/")[1] for k in report.missing} == {
    "embed",
    "positions",
    "norm",
    "visual",
    "cross",
  }
  got = variables["params"]["text_tower"]["embed"]["words"]
  np.testing.assert_array_equal(got, torch["bert.embeddings.word_embeddings.weight"])
  assert "mlm_head" in variables["params"]
  assert set(report.unused) == {"bert.pooler.dense.bias", "bert.pooler.dense.weight"}


def test_s3d_comes_from_a_second_file(tmp_path):
  net = model(video="s3d")
  want, there = filled.variables(net, seed=3), {}
  for kind in ("params", "batch_stats"):
    for path, x in jax.tree_util.tree_leaves_with_path(want[kind]["video_tower"]):
      name = jax.tree_util.keystr(path, simple=True, separator="/")
      name = s3d.published(f"{kind}/video_tower/{name}")
      there[name] = x.transpose(4, 3, 0, 1, 2) if x.ndim == 5 else x.T
  np.savez(tmp_path / "s3d.npz", **there)
  text = bert.Model(
    vocab_size=40, width=24, depth=1, num_heads=2, max_positions=64, heads=()
  )
  torch = bert_importer.export(filled.variables(text))
  got, _ = importer.convert(torch, net, video=str(tmp_path / "s3d.npz"))
  for kind in ("params", "batch_stats"):
    pairs = got[kind]["video_tower"], want[kind]["video_tower"]
    jax.tree.map(np.testing.assert_array_equal, *pairs)
  _, report = importer.convert(torch, net)
  assert {k.split("/")[1] for k in report.missing} >= {"video_tower", "visual"}


def test_labels_without_a_class_do_not_count(small):
  _, variables, run = small
  batch = rows() | {"label": jnp.array([0, 1, 2, 0, -1, 1])}
  out = run(variables, shown(batch))
  apply = lambda *a, **k: (out, {})
  terms, aux, _ = objectives.classify(apply, variables, batch, KEY)
  known = np.array([0, 1, 2, 3, 5])
  logits, label = np.asarray(out["logits"])[known], np.asarray(batch["label"])[known]
  want = reference.restricted(logits[:, None], label[:, None], np.ones((5, 1), bool))
  np.testing.assert_allclose(terms["classify"].value, want, rtol=1e-5)
  assert aux["classify/accuracy"].weight == 5
  last = model(num_classes=3, pool="last")
  got = jax.jit(last.apply)(variables, shown(batch))["logits"]
  assert np.abs(got - out["logits"]).max() > 1e-3


def test_features_of_another_width_are_refused(small):
  m, variables, _ = small
  batch = shown(rows()) | {"clips_features": jnp.zeros((6, 5, 7))}
  with pytest.raises(ValueError, match=r"width 7; cbt expects 24"):
    m.apply(variables, batch)


def test_a_step_is_told_by_its_neighbours_and_a_text_by_its_video():
  """Features go round in a circle from a random start; the text names the circle."""
  m = model(depth=1)
  params = filled.variables(m)["params"]
  rng = np.random.default_rng(0)
  places = rng.normal(size=(4, 6, 24)).astype(np.float32)  # circles of 6 places

  def batch(n, count=16):
    kind, start = rng.integers(0, 4, count), rng.integers(0, 6, count)
    at = (start[:, None] + np.arange(5)) % 6
    noise = 0.1 * rng.normal(size=(count, 5, 24))
    ids = np.stack([np.full(count, 1), 10 + kind, np.full(count, 2)], axis=1)
    return {
      "clips_features": (places[kind[:, None], at] + noise).astype(np.float32),
      "clips_mask": np.ones((count, 5), bool),
      "text_ids": ids.astype(np.int32),
      "text_mask": np.ones(ids.shape, bool),
      "example_id": np.arange(count, dtype=np.int32) + n * count,
      # Texts of one circle are the same: no negatives of each other.
      "group_id": kind.astype(np.int32),
    }

  apply = lambda v, b, *, method=None, **_: (m.apply(v, b, method=method), {})
  fn = functools.partial(
    objectives.cbt,
    vocab=VOCAB,
    cross_coef=1.0,
    num_negatives=3,
    normalise=True,
    tau=0.1,
  )
  tx = optax.adam(2e-3)

  @jax.jit
  def step(params, state, batch):
    def loss(params):
      terms, aux, _ = fn(apply, {"params": params}, batch, KEY)
      return sum(t.value for t in terms.values()), {k: a.value for k, a in aux.items()}

    (_, aux), grad = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = tx.update(grad, state)
    return optax.apply_updates(params, updates), state, aux

  state, logs = tx.init(params), []
  for n in range(150):
    params, state, aux = step(params, state, batch(n))
    logs.append(aux)
  late = lambda k: np.mean([float(a[k]) for a in logs[-20:]])
  # Of 80 steps in a batch, about 3 show the same place: a third at best, or less.
  assert late("visual/accuracy") > 0.15 > 10 / 80
  assert late("cross/accuracy") > 0.6 > 2 / 4


def test_standardised_features_may_be_scaled_and_moved():
  """By statistics of real steps alone, in training; by the running ones after it."""
  m = model(standardise=True)
  batch = rows()
  variables = jax.jit(m.init)(KEY, {k: x for k, x in shown(batch).items()})
  x, where = batch["clips_features"], batch["clips_mask"][..., None]
  run = jax.jit(
    lambda x: m.apply(
      variables,
      shown(batch | {"clips_features": x}),
      train=True,
      rngs={"dropout": KEY},
      mutable=["batch_stats"],
    )
  )
  out, moved = run(x)
  got, _ = run(jnp.where(where, 3 * x + 5, 1e3))
  np.testing.assert_allclose(got["video"], out["video"], atol=1e-4)
  real = np.asarray(x)[np.asarray(batch["clips_mask"])]
  kept = moved["batch_stats"]["input_norm"]
  np.testing.assert_allclose(kept["mean"], 0.01 * real.mean(0), rtol=1e-4, atol=1e-6)
