"""MIL-NCE: published values and gradients, the oracle, masks, devices, objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests import helpers
from tests.reference import nce as reference
from vlp_jax.objectives import contrastive, nce


def sine(shape, rate):
  """Row-major sin(rate * (n + 1)), as in the published comparison values."""
  return np.sin(rate * np.arange(1, np.prod(shape) + 1)).reshape(shape)


def clips(batch=8, candidates=3, width=4, seed=0):
  """video, text, where, video_where; one clip without candidates, one without video."""
  rng = np.random.default_rng(seed)
  video = rng.normal(size=(batch, width)).astype(np.float32)
  text = rng.normal(size=(batch, candidates, width)).astype(np.float32)
  where = rng.random((batch, candidates)) < 0.7
  where[:, 0] = True
  where[3] = False
  video_where = np.arange(batch) != 5
  return video, text, where, video_where


@pytest.mark.parametrize("name", ["4_1", "4_3", "6_5"])
def test_golden_values_and_gradients(name):
  _, inputs, outputs, _ = helpers.golden("milnce_loss")
  video, text = inputs[f"v{name}"], inputs[f"t{name}"]
  text = text.reshape(len(video), -1, video.shape[-1])
  mean = lambda v, t: nce.mil_nce(v, t, positives="twice").mean()
  loss, grads = jax.jit(jax.value_and_grad(mean, (0, 1)))(video, text)
  np.testing.assert_allclose(loss, outputs[f"loss{name}"], rtol=1e-5)
  np.testing.assert_allclose(grads[0], outputs[f"gv{name}"], atol=1e-6)
  want = outputs[f"gt{name}"].reshape(text.shape)
  np.testing.assert_allclose(grads[1], want, atol=1e-6)


def test_published_numbers_of_both_forms():
  video, text = sine((4, 8), 0.37), sine((12, 8), 0.53).reshape(4, 3, 8)
  for positives, want in (("twice", 2.1244784580), ("once", 1.9935887703)):
    got = nce.mil_nce(jnp.array(video), jnp.array(text), positives=positives)
    np.testing.assert_allclose(got.mean(), want, rtol=1e-6)


@pytest.mark.parametrize("positives", ["twice", "once"])
@pytest.mark.parametrize("tau", [1.0, 0.5])
def test_agrees_with_the_oracle(positives, tau):
  video, text, where, video_where = clips()
  got = nce.mil_nce(
    video, text, where=where, video_where=video_where, tau=tau, positives=positives
  )
  want = reference.mil_nce(video, text, where, video_where, tau, positives)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  assert (want > 0).sum() == 6


@pytest.mark.parametrize("num_devices", [1, 2, 8])
def test_mil_nce_is_global(num_devices):
  video, text, where, video_where = clips()
  mesh = jax.make_mesh(
    (num_devices,),
    ("data",),
    axis_types=(AxisType.Auto,),
    devices=jax.devices()[:num_devices],
  )
  rows = NamedSharding(mesh, PartitionSpec("data"))
  args = jax.device_put((video, text, where, video_where), rows)

  def total(video, text, where, video_where):
    loss = nce.mil_nce(video, text, where=where, video_where=video_where)
    return loss.sum(), loss

  grads, got = jax.jit(jax.grad(total, (0, 1), has_aux=True))(*args)
  want = reference.mil_nce(video, text, where, video_where)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
  alone = jax.grad(total, (0, 1), has_aux=True)(video, text, where, video_where)[0]
  for a, b in zip(grads, alone, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_gradient_is_the_slope_of_the_oracle():
  video, text, where, video_where = clips(batch=6, candidates=2, width=3)
  total = lambda v: nce.mil_nce(v, text, where=where, video_where=video_where).sum()
  got = jax.grad(total)(jnp.array(video))
  for at in ((0, 0), (1, 2), (3, 1), (5, 0)):
    step = np.zeros(video.shape)
    step[at] = 1e-5
    up, down = (
      reference.mil_nce(video + s, text, where, video_where).sum()
      for s in (step, -step)
    )
    np.testing.assert_allclose(got[at], (up - down) / 2e-5, atol=1e-5)


def test_masked_entries_never_matter_and_get_no_gradient():
  video, text, where, video_where = clips()
  wild = np.where(where[..., None], text, np.inf)
  wild_video = np.where(video_where[:, None], video, np.nan)
  run = lambda v, t: nce.mil_nce(v, t, where=where, video_where=video_where)
  got = run(wild_video, wild)
  np.testing.assert_array_equal(got, run(video, text))
  grads = jax.grad(lambda v, t: run(v, t).sum(), (0, 1))(wild_video, wild)
  assert all(np.isfinite(g).all() for g in grads)
  assert not grads[0][~video_where].any()
  assert not grads[1][~where].any()
  # A clip without candidates is still a negative of the others.
  assert grads[0][3].any()


def test_empty_batch_is_zero_with_zero_gradient():
  video, text, where, _ = clips()
  run = lambda v: nce.mil_nce(v, text, where=np.zeros_like(where)).sum()
  loss, grads = jax.value_and_grad(run)(video)
  assert loss == 0
  np.testing.assert_array_equal(grads, np.zeros_like(video))


def test_nce_is_mil_nce_of_unit_vectors():
  video, text, _, video_where = clips(candidates=1)
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  got = nce.nce(video, text[:, 0], video_where=video_where, tau=0.07)
  want = reference.mil_nce(unit(video), unit(text), None, video_where, 0.07)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_unit_vectors_and_their_gradient_at_zero():
  x = jnp.array([[3.0, 4.0], [0.0, 0.0]])
  np.testing.assert_allclose(nce.unit(x), [[0.6, 0.8], [0, 0]], rtol=1e-6)
  assert np.isfinite(jax.grad(lambda x: nce.unit(x).sum())(x)).all()


def test_bad_shapes_and_switches_are_named():
  video, text, *_ = clips()
  with pytest.raises(ValueError, match="positives is 'both'"):
    nce.mil_nce(video, text, positives="both")
  with pytest.raises(ValueError, match=r"\(8, 3, 4\)"):
    nce.mil_nce(video[:4], text)


def embeddings(video, text, where, video_where):
  """A batch and an apply that hands back the given embeddings."""
  batch = {
    "narration_mask": jnp.repeat(jnp.array(where)[..., None], 5, -1),
    "narration_ids": jnp.zeros((*where.shape, 5), jnp.int32),
    "video_mask": jnp.repeat(jnp.array(video_where)[:, None], 2, -1),
    "example_id": jnp.arange(len(video), dtype=jnp.int32),
  }

  def apply(variables, batch, *, rng=None, train=False, method=None):
    assert train
    assert rng is not None
    out = {"video_embed": variables["video"], "text_embed": variables["text"]}
    return out, {"batch_stats": {}}

  return apply, {"video": jnp.array(video), "text": jnp.array(text)}, batch


def test_objective_is_the_mean_over_real_rows():
  video, text, where, video_where = clips()
  apply, variables, batch = embeddings(video, text, where, video_where)
  batch["example_mask"] = jnp.arange(8) != 7
  terms, aux, mutable = contrastive.mil_nce(
    apply, variables, batch, jax.random.key(0), positives="once"
  )
  assert terms["mil_nce"].weight == 5  # of 8: no candidate, no clip, padding
  want = reference.mil_nce(video[:7], text[:7], where[:7], video_where[:7], 1.0, "once")
  np.testing.assert_allclose(terms["mil_nce"].total, want.sum(), rtol=1e-5)
  scores = np.where(where[:7], np.einsum("id,jkd->ijk", video, text)[:7, :7], -np.inf)
  rows = [0, 1, 2, 4, 6]
  right = [i for i in rows if scores[i].max(-1).argmax() == i]
  assert aux["mil_nce/accuracy"].total == len(right)
  assert aux["mil_nce/accuracy"].weight == 5
  assert set(mutable) == {"batch_stats"}


def test_objective_of_one_text_a_clip():
  video, text, *_ = clips(candidates=1)
  apply, variables, batch = embeddings(video, text[:, 0], np.ones(8, bool), np.ones(8))
  batch["text_mask"] = jnp.ones((8, 5), bool)
  del batch["narration_mask"], batch["narration_ids"]
  batch["video_mask"] = jnp.ones((8, 2), bool)
  terms, *_ = contrastive.mil_nce(apply, variables, batch, jax.random.key(0))
  want = reference.mil_nce(video, text)
  np.testing.assert_allclose(terms["mil_nce"].total, want.sum(), rtol=1e-5)


def test_objective_without_a_real_row_is_zero():
  video, text, where, video_where = clips()
  apply, variables, batch = embeddings(video, text, where, video_where & False)
  value = lambda v: (
    contrastive.mil_nce(apply, v, batch, jax.random.key(0))[0]["mil_nce"].value
  )
  loss, grads = jax.value_and_grad(value)(variables)
  assert loss == 0
  assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads))


def test_accuracy_counts_a_tie_against_us():
  same = np.ones((4, 1, 3), np.float32)
  assert not nce.matches(np.ones((4, 3), np.float32), same).any()
  assert nce.matches(np.eye(4), np.eye(4)[:, None]).all()


def test_objectives_of_pairs_are_means_over_whole_rows():
  """Each against its oracle; accuracy by sorting. One forward-only program for all."""
  rng = np.random.default_rng(0)
  video, text = (rng.normal(size=(8, 4)).astype(np.float32) for _ in range(2))
  text[4] = 3 * video[4]  # one that is right for sure
  tags = [(rng.random((8, n)) < 0.4).astype(np.int32) for n in (3, 5)]
  real, seen, told = np.arange(8) != 7, np.arange(8) != 5, np.arange(8) != 2
  batch = {
    "video_mask": jnp.array(seen)[:, None],
    "text_mask": jnp.array(told)[:, None],
    "example_id": jnp.arange(8, dtype=jnp.int32),
    "example_mask": jnp.array(real),
    "label_verbs": jnp.array(tags[0]),
    "label_nouns": jnp.array(tags[1]),
  }
  out = {"video_embed": jnp.array(video), "text_embed": jnp.array(text)}

  def apply(variables, batch, *, rng=None, train=False, method=None):
    assert train
    assert rng is not None
    return out, {}

  @jax.jit
  def run(batch):
    args = apply, {}, batch, jax.random.key(0)
    given = dict(streams=("video", "text"))
    return {
      "symmetric": contrastive.symmetric(*args, tau=0.3, **given),
      "ego": contrastive.ego(*args, tau=0.3),
      "sigmoid": contrastive.sigmoid(*args, scale=4.0, bias=-2.0),
      "nt_xent": contrastive.nt_xent(*args, tau=0.3, **given),
    }

  found = run(batch)
  v, t = seen & real, told & real
  sides = dict(where=t, video_where=v)
  want = {
    "symmetric": reference.ego(video, text, tau=0.3, **sides),
    "ego": reference.ego(video, text, tags, tau=0.3, **sides),
    "sigmoid": reference.sigmoid(video, text, 4.0, -2.0, **sides),
    "nt_xent": reference.nt_xent(video, text, t, v, tau=0.3),
  }
  unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
  s = np.where(v[:, None] & t, unit(video) @ unit(text).T, -np.inf)
  right = ((s.argmax(1) == np.arange(8)) & v & t).sum()
  assert 0 < right < 5
  for name, values in want.items():
    terms, aux, _ = found[name]
    np.testing.assert_allclose(terms[name].total, values.sum(), rtol=1e-5)
    assert terms[name].weight == 5  # of 8: no clip, no text, padding
    accuracy = aux[f"{name}/accuracy"]
    assert accuracy.weight == (10 if name == "nt_xent" else 5)
    if name != "nt_xent":
      assert accuracy.total == right
  views = {(i, k): unit(x[i]) for k, x in enumerate((video, text)) for i in range(8)}
  views = {k: x for k, x in views.items() if (v, t)[k[1]][k[0]]}
  hits = 0
  for (i, k), x in views.items():
    if v[i] and t[i]:
      other = max(x @ y for (j, _), y in views.items() if j != i)
      hits += x @ views[i, 1 - k] > other
  assert found["nt_xent"][1]["nt_xent/accuracy"].total == hits
  less = {k: x for k, x in batch.items() if k != "label_verbs"}
  with pytest.raises(KeyError, match="label_verbs"):
    contrastive.ego(apply, {}, less, jax.random.key(0))


def test_a_learnt_scale_comes_from_the_model():
  x = jnp.eye(4)
  out = {"video_embed": x, "text_embed": x, "logit_scale": 2.0, "logit_bias": 1.0}
  batch = {"example_id": jnp.arange(4)}
  apply = lambda *args, **given: (out, {})
  terms, *_ = contrastive.sigmoid(apply, {}, batch, jax.random.key(0))
  want = reference.sigmoid(np.eye(4), np.eye(4), 2.0, 1.0).sum()
  np.testing.assert_allclose(terms["sigmoid"].total, want, rtol=1e-5)


def test_objectives_refuse_microbatches():
  names = ("mil_nce", "symmetric", "ego", "sigmoid", "nt_xent")
  assert all(getattr(contrastive, name).global_batch is True for name in names)
