"""Every contrastive loss: oracle, slopes, masks, blocks, devices, published values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from tests.reference import nce as reference
from vlp_jax import sharding
from vlp_jax.objectives import blockwise, nce

B, K, D = 16, 3, 5


def data(seed=0):
  """Both sides, candidates, tags; rows 3 and 5 lack a side and row 7 both."""
  rng = np.random.default_rng(seed)
  x = dict(video=rng.normal(size=(B, D)), text=rng.normal(size=(B, D)))
  x["bag"] = rng.normal(size=(B, K, D))
  tags = [(rng.random((B, n)) < 0.3).astype(np.int32) for n in (4, 6)]
  where, video_where = np.arange(B) != 3, np.arange(B) != 5
  where[7] = video_where[7] = False
  bag = rng.random((B, K)) < 0.6
  bag[:, 0] = True
  bag &= where[:, None]
  masks = dict(where=where, video_where=video_where, bag=bag)
  return x, tags, masks


def losses(lib, x, tags, m, names=None):
  """Losses of ours, or of the oracle, which takes the same arguments."""
  v, t = x["video"], x["text"]
  sides = dict(where=m["where"], video_where=m["video_where"])
  bags = dict(where=m["bag"], video_where=m["video_where"])
  views = (m["where"], m["video_where"])
  ours = lib is nce
  first = dict(where=views[0], **{"first_where" if ours else "one_where": views[1]})
  symmetric = nce.symmetric if ours else reference.ego
  margin = np.linspace(0.1, 0.4, B)
  every = {
    "twice": lambda: lib.mil_nce(v, x["bag"], tau=0.7, **bags),
    "once": lambda: lib.mil_nce(v, x["bag"], positives="once", **bags),
    "nt_xent": lambda: lib.nt_xent(v, t, tau=0.5, **first),
    "dots": lambda: lib.nt_xent(v, t, tau=2.0, normalize=False, **first),
    "symmetric": lambda: symmetric(v, t, tau=0.2, **sides),
    "ego": lambda: lib.ego(v, t, tags, tau=0.2, **sides),
    "nouns": lambda: lib.ego(v, t, tags[1:], **sides),
    "sigmoid": lambda: lib.sigmoid(v, t, scale=3.0, bias=-1.5, **sides),
    "margin": lambda: lib.max_margin(v, t, margin=margin, **sides),
  }
  return {k: every[k]() for k in names or every}


WEIGHTS = np.cos(np.arange(B))  # so that rows do not cancel


def total(x, tags, masks, lib=nce):
  found = losses(lib, x, tags, masks)
  return sum((i + 1) * (v @ WEIGHTS) for i, v in enumerate(found.values())), found


grad = jax.jit(jax.value_and_grad(total, has_aux=True))


@pytest.fixture(scope="module")
def want():
  """Oracle values; ours in float64 with their gradients."""
  x, tags, masks = data()
  with jax.enable_x64(True):
    (_, found), grads = jax.device_get(grad(x, tags, masks))
  return losses(reference, x, tags, masks), found, grads


def test_values_are_those_of_the_oracles(want):
  oracle, found, _ = want
  single = jax.tree.map(lambda a: a.astype(np.float32), data()[0])
  (_, low), _ = grad(single, *data()[1:])
  for name, values in oracle.items():
    assert (values[[3, 5, 7]] == 0).all(), name
    assert np.count_nonzero(values) >= B - 4, name
    np.testing.assert_allclose(found[name], values, rtol=1e-9, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(low[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
    assert low[name].dtype == np.float32


@pytest.mark.parametrize("side", ["video", "text", "bag"])
def test_gradients_are_the_slopes_of_the_oracles(want, side):
  """Central differences of the float64 oracles, along random directions."""
  x, tags, masks = data()
  rng = np.random.default_rng(1)
  for _ in range(2):
    step = 1e-5 * rng.normal(size=x[side].shape)
    up, down = (
      total(x | {side: x[side] + s}, tags, masks, reference)[0] for s in (step, -step)
    )
    got = 2 * (want[2][side] * step).sum()
    np.testing.assert_allclose(got, up - down, rtol=1e-6)


def test_gradients_in_float32_are_those_in_float64(want):
  x, tags, masks = data()
  single = jax.tree.map(lambda a: a.astype(np.float32), x)
  grads = grad(single, tags, masks)[1]
  for name, g in want[2].items():
    assert np.linalg.norm(grads[name] - g) <= 1e-5 * np.linalg.norm(g), name


@pytest.mark.multidevice
@pytest.mark.parametrize(
  "mesh",
  [dict(data=2), dict(data=8), dict(data=4, model=2), dict(dcn=2, data=2, fsdp=2)],
)
def test_devices_change_nothing(mesh):
  """One loss of each make, values and gradients, against one device."""
  x, tags, masks = data()

  def run(x, tags, masks):
    def total(x):
      found = losses(nce, x, tags, masks, ("once", "nt_xent", "ego", "sigmoid"))
      return sum((i + 1) * (v @ WEIGHTS) for i, v in enumerate(found.values())), found

    return jax.grad(total, has_aux=True)(x)

  mesh = sharding.mesh(mesh, jax.devices()[: np.prod(list(mesh.values()))])
  with jax.enable_x64(True):
    want = one_device(run)(x, tags, masks)
    with sharding.context(mesh):
      args = jax.device_put((x, tags, masks), sharding.batch_sharding(mesh))
      got = jax.device_get(jax.jit(run)(*args))
  for ours, theirs in zip(got, want, strict=True):
    for name, value in theirs.items():
      np.testing.assert_allclose(ours[name], value, 1e-9, 1e-11, err_msg=name)


KEPT = {}


def one_device(run):
  """The result on one device, computed once for all meshes."""

  def known(*args):
    if "one" not in KEPT:
      KEPT["one"] = jax.device_get(jax.jit(run)(*args))
    return KEPT["one"]

  return known


@pytest.mark.parametrize(("chunk", "columns"), [(3, 7), (6, 12)])
def test_blocks_change_nothing(monkeypatch, chunk, columns):
  """Of 13 rows, which no block divides."""
  x, _, masks = data()
  v, t, bag, seen = (
    a[:13] for a in (x["video"], x["bag"], masks["bag"], masks["video_where"])
  )
  given = dict(where=bag, video_where=seen, tau=0.7)

  def one(v, t, **more):
    loss, right = nce.mil_nce_and_matches(v, t, **given, **more)
    return loss @ WEIGHTS[:13], (loss, right)

  grad = jax.value_and_grad(one, (0, 1), has_aux=True)
  with jax.enable_x64(True):
    _, whole = jax.jit(grad)(v, t)
    monkeypatch.setattr(blockwise, "COLUMNS", columns)
    (_, (loss, right)), grads = jax.jit(functools.partial(grad, chunk=chunk))(v, t)
  for a, b in zip(grads, whole, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
  want = reference.mil_nce(v, t, bag, seen, 0.7)
  np.testing.assert_allclose(loss, want, rtol=1e-9, atol=1e-12)
  s = np.einsum("id,jkd->ijk", v, t)
  best = np.where(bag, s, -np.inf).max(-1).argmax(-1)
  np.testing.assert_array_equal(right, (best == np.arange(13)) & seen & bag.any(1))


def test_what_is_masked_never_matters_and_gets_no_gradient(want):
  x, tags, masks = data()
  wild = {
    "video": np.where(masks["video_where"][:, None], x["video"], np.nan),
    "text": np.where(masks["where"][:, None], x["text"], np.inf),
    "bag": np.where(masks["bag"][..., None], x["bag"], np.nan),
  }
  with jax.enable_x64(True):
    (_, found), grads = jax.device_get(grad(wild, tags, masks))
  for name, value in want[1].items():
    np.testing.assert_allclose(found[name], value, rtol=1e-12, err_msg=name)
  for name, real in (("video", "video_where"), ("text", "where"), ("bag", "bag")):
    assert np.isfinite(grads[name]).all()
    assert not grads[name][~masks[real]].any()
    np.testing.assert_allclose(grads[name], want[2][name], rtol=1e-9, atol=1e-12)
  assert grads["video"][3].any()  # a lone clip is a negative of the others


def test_nothing_real_is_zero_with_zero_gradient():
  x, tags, masks = data()
  single = jax.tree.map(lambda a: a.astype(np.float32), x)
  none = jax.tree.map(np.zeros_like, masks)
  (value, _), grads = grad(single, tags, none)
  assert value == 0
  assert all(not np.asarray(g).any() for g in jax.tree.leaves(grads))
  one = np.arange(B) == 1  # a pair without any other to compare with
  masks = {k: m & (one[:, None] if m.ndim > 1 else one) for k, m in masks.items()}
  (_, found), grads = grad(single, tags, masks)
  for name in ("once", "nt_xent", "symmetric", "ego", "margin"):
    assert np.isfinite(found[name]).all()
  for name in ("nt_xent", "symmetric", "ego", "margin"):
    np.testing.assert_allclose(found[name], 0, atol=1e-5)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


def test_scale_and_bias_are_learnt(want):
  """Of the sigmoid loss, and a temperature: slopes of the oracle."""
  x, _, masks = data()
  sides = dict(where=masks["where"], video_where=masks["video_where"])
  v, t = x["video"], x["text"]
  with jax.enable_x64(True):
    ours = lambda s, b: nce.sigmoid(v, t, scale=s, bias=b, **sides).sum()
    got = jax.grad(ours, (0, 1))(3.0, -1.5)
    tau = jax.grad(lambda tau: nce.symmetric(v, t, tau=tau, **sides).sum())(0.2)
  oracle = lambda s, b: reference.sigmoid(v, t, s, b, **sides).sum()
  slope = lambda f, x: (f(x + 1e-6) - f(x - 1e-6)) / 2e-6
  np.testing.assert_allclose(got[0], slope(lambda s: oracle(s, -1.5), 3.0), rtol=1e-6)
  np.testing.assert_allclose(got[1], slope(lambda b: oracle(3.0, b), -1.5), rtol=1e-6)
  loss = lambda tau: reference.ego(v, t, tau=tau, **sides).sum()
  np.testing.assert_allclose(tau, slope(loss, 0.2), rtol=1e-6)


def test_bfloat16_embeddings_are_widened():
  x, _, _ = data()
  v, t = (jnp.array(x[k], jnp.bfloat16) for k in ("video", "bag"))
  loss, grads = jax.value_and_grad(lambda v, t: nce.mil_nce(v, t).sum(), (0, 1))(v, t)
  want = nce.mil_nce(v.astype(jnp.float32), t.astype(jnp.float32)).sum()
  np.testing.assert_allclose(loss, want, rtol=1e-6)
  assert loss.dtype == np.float32
  assert all(g.dtype == jnp.bfloat16 for g in grads)


def test_a_batch_that_does_not_divide_runs_as_one_part():
  x, *_ = data()
  v, t = x["video"][:6].astype(np.float32), x["bag"][:6].astype(np.float32)
  with sharding.context(sharding.mesh(dict(data=8))):
    got = jax.jit(nce.mil_nce)(v, t)
  np.testing.assert_allclose(got, reference.mil_nce(v, t), rtol=1e-5)


def test_batch_axes_are_those_of_the_mesh():
  assert blockwise.BATCH_AXES == sharding.BATCH_AXES


# ----- published values


def test_golden_nt_xent():
  """Batches of 2 and 4 stand, masked, in one of 8: two compilations for all."""
  _, inputs, outputs, _ = helpers.golden("simclr_ntxent")

  @functools.partial(jax.jit, static_argnums=3)
  def run(x, real, tau, normalize):
    given = dict(where=real, first_where=real, tau=tau, normalize=normalize)
    mean = lambda x: nce.nt_xent(x[:8], x[8:], **given).sum() / real.sum()
    return jax.value_and_grad(mean)(x)

  for name, views in inputs.items():
    size, tau, norm = name[1:].split("_")
    size, width = int(size), views.shape[1]
    x = np.zeros((2, 8, 16), np.float32)
    x[:, :size, :width] = views.reshape(2, size, width)
    loss, slope = run(
      x.reshape(16, 16), np.arange(8) < size, float(tau), norm == "norm"
    )
    slope = np.asarray(slope).reshape(x.shape)[:, :size, :width].reshape(views.shape)
    np.testing.assert_allclose(loss, outputs[f"loss{name[1:]}"], rtol=1e-5)
    np.testing.assert_allclose(slope, outputs[f"grad{name[1:]}"], atol=1e-5)


def test_golden_frozen_in_time():
  _, inputs, outputs, _ = helpers.golden("fit_losses")
  a, b = inputs["a"], inputs["b"]
  got = nce.symmetric(a, b, tau=0.05).mean()
  np.testing.assert_allclose(got, outputs["normsoftmax"], rtol=1e-5)
  got = nce.max_margin(a, b, margin=0.2).mean()
  np.testing.assert_allclose(got, outputs["maxmargin"], rtol=1e-5)


def with_cosines(scores):
  """Unit vectors a, b with a . b = scores: the identity beside a square root."""
  n = len(scores)
  rest = np.sqrt(1 - (scores**2).sum(0))
  a = np.concatenate([np.eye(n), np.zeros((n, n))], 1)
  return a, np.concatenate([scores.T, np.diag(rest)], 1)


def test_hand_computed_values_of_both_specs():
  """Scores of three pairs: symmetric, EgoNCE, max-margin; and of three vectors."""
  s = np.array([[0.9, 0.1, 0.2], [0.3, 0.8, 0.1], [0.2, 0.4, 0.7]])
  share = np.array([[1, 0], [0, 1], [1, 0]])
  text, video = with_cosines(s / 2)  # no unit vectors have these scores themselves
  v = np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 1]])
  a = np.array([[1, 0.5, 0], [0, 1, 1], [1, 0, 1]])

  @jax.jit
  def run(tau):
    plain = nce.symmetric(video, text, tau=tau / 2)
    return plain.mean(), nce.ego(video, text, [share], tau=tau / 2).mean()

  @jax.jit
  def three(tau):
    both = nce.nt_xent(v, a, tau=tau), nce.symmetric(v, a, tau=tau)
    return [x.mean() for x in (nce.nce(v, a, tau=tau), *both)]

  with jax.enable_x64(True):
    want = (0.00098763413, 0.00095681385), (1.50642666, 0.92158464)
    np.testing.assert_allclose([run(0.05), run(1.0)], want, rtol=1e-6)
    np.testing.assert_allclose(three(0.5), (1.485443, 2.331756, 1.562717), atol=1e-6)
    for margin, want in ((0.2, 0.0), (0.5, 0.025), (1.0, 0.41666667)):
      got = 2 * nce.max_margin(video, text, margin=margin / 2).mean()
      np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-9)


def test_wrong_arguments_are_named():
  x = np.ones((4, 3), np.float32)
  with pytest.raises(ValueError, match=r"\(4, 3\) and \(2, 3\)"):
    nce.symmetric(x, x[:2])
  with pytest.raises(ValueError, match=r"\(4, 3\) and \(2, 3\)"):
    nce.nt_xent(x, x[:2])
  with pytest.raises(ValueError, match=r"give arrays \[4, V\]"):
    nce.ego(x, x, [])
  with pytest.raises(ValueError, match=r"tags \[\(2, 3\)\]"):
    nce.ego(x, x, [x[:2]])
