"""MMV's losses: published values, floor, masks, mixtures, switches, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.reference import bags as reference
from vlp_jax.objectives import deflation, mmv

V = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]], np.float32)
A = np.array([[1, 0.5, 0], [0, 1, 1], [1, 0, 1]], np.float32)
BAGS = np.stack([A, A[:, ::-1]], axis=1)


def given(rows=8, candidates=3, width=5, seed=0):
  """(apply, variables, batch): an apply that hands back the given embeddings.

  Row 2 has no narration, row 3 no sound, row 5 no picture; row 6 misses a candidate.
  """
  rng = np.random.default_rng(seed)
  draw = lambda *s: jnp.array(rng.normal(size=s), jnp.float32)
  variables = {
    "video_embed_audio": draw(rows, width),
    "audio_embed": draw(rows, width),
    "video_embed": draw(rows, width - 1),
    "text_embed": draw(rows, candidates, width - 1),
    "audio_embed_text": draw(rows, width - 1),
  }
  text = np.ones((rows, candidates), bool)
  text[2], text[6, 1:2] = False, False
  at = np.arange(rows)
  batch = {
    "video_mask": np.repeat((at != 5)[:, None], 2, 1),
    "audio_mask": np.repeat((at != 3)[:, None], 9, 1),
    "narration_mask": np.repeat(text[..., None], 4, -1),
    "example_id": at.astype(np.int32),
  }

  def apply(variables, batch, *, rng=None, train=False, method=None):
    assert train
    assert rng is not None
    return dict(variables), {"batch_stats": {}}

  return apply, variables, {k: jnp.array(x) for k, x in batch.items()}


def run(apply, variables, batch, **hyper):
  step = lambda v, b: mmv.mmv(apply, v, b, jax.random.key(0), **hyper)
  return jax.jit(step)(variables, batch)


def only(left, right, pair="va", mask=None):
  """Mean loss of one pair of given arrays by the objective itself."""
  (one, other), streams = mmv.PAIRS[pair], mmv.STREAMS[pair]
  rows = len(left)
  mask = np.ones(rows, bool) if mask is None else mask
  batch = {
    f"{streams[0]}_mask": jnp.ones((rows, 1), bool),
    "example_id": jnp.arange(rows, dtype=jnp.int32),
  }
  if streams[1] == "text":
    mask = np.broadcast_to(mask.reshape(rows, 1, 1), (*right.shape[:2], 1))
    batch["narration_mask"] = jnp.array(mask)
  else:
    batch[f"{streams[1]}_mask"] = jnp.array(mask[:, None])
  apply = lambda v, *_, **__: (v, {})
  variables = {one: jnp.array(left), other: jnp.array(right)}
  weights = dict.fromkeys(("va", "vt", "at"), 0.0) | {pair: 1.0}
  return lambda **hyper: run(apply, variables, batch, **weights, **hyper)[0][pair].value


def test_published_values():
  near = lambda got, want: np.testing.assert_allclose(got, want, atol=2e-6)
  near(only(V, A)(), 1.350655)
  near(only(V, A)(tau=0.5), 1.485443)
  near(only(V, A)(tau=0.5, form="symmetric"), 1.562717)
  near(only(V, BAGS, "vt")(), 1.418608)
  near(only(V, BAGS, "vt")(tau=0.5), 1.642118)
  mask = np.array([True, False, True])
  near(only(V, BAGS, "vt", mask)(tau=0.5), 1.509780)


def test_floor_at_perfect_separation():
  eye = np.eye(4, dtype=np.float32)
  np.testing.assert_allclose(only(eye, eye)(tau=0.02), np.log(2), atol=5e-6)
  assert only(eye, eye)(tau=0.02, positives="once") < 1e-5
  assert only(eye, eye)(tau=0.02, form="symmetric") < 1e-5


@pytest.mark.parametrize("form", ["asymmetric", "symmetric"])
def test_mixtures_agree_with_loops(form):
  apply, variables, batch = given()
  batch["example_mask"] = jnp.arange(8) != 7
  terms, aux, mutable = run(
    apply, variables, batch, vt=10.0, at=0.5, form=form, tau=0.3
  )
  real = np.arange(8) != 7
  video, audio = (np.array(batch[f"{k}_mask"][:, 0]) & real for k in ("video", "audio"))
  text = np.array(batch["narration_mask"][..., 0]) & real[:, None]
  v = {k: np.array(x) for k, x in variables.items()}
  sides = {
    "va": (v["video_embed_audio"], v["audio_embed"][:, None], video, audio[:, None]),
    "vt": (v["video_embed"], v["text_embed"], video, text),
    "at": (v["audio_embed_text"], v["text_embed"], audio, text),
  }
  for pair, (left, right, left_where, where) in sides.items():
    want = reference.losses(left, right, where, left_where, 0.3, form)
    row = left_where & where.any(1)
    np.testing.assert_allclose(terms[pair].total, want.sum(), rtol=1e-5)
    assert terms[pair].weight == row.sum()
    s = np.where(where, reference.cosines(left, right), -np.inf).max(-1)
    right_ones = sum(row[i] and s[i].argmax() == i for i in range(8))
    assert aux[f"{pair}/accuracy"].total == right_ones
    assert aux[f"{pair}/accuracy"].weight == row.sum()
  assert [terms[k].coef for k in sides] == [1.0, 10.0, 0.5]
  assert set(mutable) == {"batch_stats"}


def test_missing_sides_get_no_gradient_and_no_say():
  apply, variables, batch = given()
  total = lambda v: sum(
    t.value for t in run(apply, v, batch, at=1.0, tau=0.2)[0].values()
  )
  wild = dict(variables)
  for key, rows in (
    ("video_embed_audio", 5),
    ("video_embed", 5),
    ("audio_embed", 3),
    ("audio_embed_text", 3),
    ("text_embed", 2),
  ):
    wild[key] = wild[key].at[rows].set(1e3)
  value, grads = jax.jit(jax.value_and_grad(total))(variables)
  np.testing.assert_allclose(total(wild), value, rtol=1e-6)
  for key, row in (("audio_embed", 3), ("video_embed", 5), ("text_embed", 2)):
    assert not np.array(grads[key][row]).any()
    assert np.array(grads[key][0]).any()
  assert not np.array(grads["text_embed"][6, 1]).any()
  assert all(np.isfinite(g).all() for g in grads.values())
  # A clip without narrations is still a negative of the narrations of others.
  assert np.array(grads["video_embed"][2]).any()


def test_a_batch_without_a_modality_has_no_such_term():
  apply, variables, batch = given()
  silent = {k: x for k, x in batch.items() if k != "audio_mask"}
  assert set(run(apply, variables, silent)[0]) == {"vt"}
  wordless = {k: x for k, x in batch.items() if k != "narration_mask"}
  assert set(run(apply, variables, wordless)[0]) == {"va"}
  assert set(run(apply, variables, batch, vt=0.0)[0]) == {"va"}
  with pytest.raises(ValueError, match="no pair is left"):
    run(apply, variables, wordless, va=0.0)


def test_one_text_a_clip():
  apply, variables, batch = given(candidates=1)
  batch["text_mask"] = batch.pop("narration_mask")[:, 0]
  variables["text_embed"] = variables["text_embed"][:, 0]
  terms, *_ = run(apply, variables, batch)
  where = np.array(batch["text_mask"][:, :1])
  want = reference.losses(
    np.array(variables["video_embed"]),
    np.array(variables["text_embed"][:, None]),
    where,
    np.array(batch["video_mask"][:, 0]),
  )
  np.testing.assert_allclose(terms["vt"].total, want.sum(), rtol=1e-5)


def test_weights_may_be_normalised():
  apply, variables, batch = given()
  terms, *_ = run(apply, variables, batch, vt=9.0, normalise_weights=True)
  assert terms["va"].coef == pytest.approx(0.1)
  assert terms["vt"].coef == pytest.approx(0.9)


def test_rows_of_padding_only_are_zero_with_zero_gradient():
  apply, variables, batch = given()
  batch["example_mask"] = jnp.zeros(8, bool)
  for form in mmv.FORMS:
    total = lambda v, form=form: sum(
      t.value for t in run(apply, v, batch, form=form)[0].values()
    )
    value, grads = jax.jit(jax.value_and_grad(total))(variables)
    assert value == 0
    assert all(not np.array(g).any() for g in grads.values())


@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_the_same_on_any_number_of_devices(num_devices):
  apply, variables, batch = given()
  mesh = jax.make_mesh(
    (num_devices,),
    ("data",),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:num_devices],
  )
  rows = NamedSharding(mesh, PartitionSpec("data"))

  def total(variables, batch):
    terms = run(apply, variables, batch, at=1.0)[0]
    return sum(t.value for t in terms.values())

  want, slope = jax.jit(jax.value_and_grad(total))(variables, batch)
  args = jax.device_put((variables, batch), rows)
  got, grads = jax.jit(jax.value_and_grad(total))(*args)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  for k, g in grads.items():
    np.testing.assert_allclose(g, slope[k], atol=1e-6)


def test_mistakes_are_named():
  apply, variables, batch = given()
  with pytest.raises(ValueError, match="'row'"):
    run(apply, variables, batch, form="row")
  del variables["audio_embed_text"]
  with pytest.raises(ValueError, match="audio_text=True"):
    run(apply, variables, batch, at=1.0)
  assert mmv.mmv.global_batch is True


# ----- deflation


def test_deflation_is_the_mean_distance_of_real_rows():
  image = jnp.array([[1.0, 2.0], [0.0, 0.0], [9.0, 9.0]])
  video = jnp.array([[2.0, 4.0], [1.0, 1.0], [0.0, 0.0]])

  def apply(variables, batch, *, rng=None, train=False, method=None):
    assert not train  # statistics stay the video's
    return {"image_features": variables["i"], "video_features": variables["v"]}, {}

  batch = {"example_mask": jnp.array([True, True, False])}
  value = lambda v: deflation.l1(apply, v, batch, jax.random.key(0))
  terms, aux, mutable = value({"i": image, "v": video})
  assert mutable == {}
  np.testing.assert_allclose(terms["l1"].value, (1.5 + 1.0) / 2)
  np.testing.assert_allclose(aux["deflation/relative"].value, 1.25 / 2.0)
  grads = jax.grad(lambda v: value(v)[0]["l1"].value)({"i": image, "v": video})
  assert not np.array(grads["v"]).any()
  np.testing.assert_allclose(grads["i"][0], [-0.25, -0.25])
  assert not np.array(grads["i"][2]).any()
