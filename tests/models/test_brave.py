"""BraVe: heads against the released ones, views, counts, random filters."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from vlp_jax import batch as batch_lib
from vlp_jax.augment import convolve
from vlp_jax.models import brave as model_lib
from vlp_jax.objectives import brave

LAYERS = {
  "dense_0": "linear",
  "dense_1": "linear_1",
  "bn_0": "batch_norm",
  "bn_1": "batch_norm_1",
}
LEAVES = {"kernel": "w", "bias": "b", "scale": "scale"}


def published(module, name, shape):
  """The golden's weights, by the names of the released code."""
  draw = np.random.RandomState(zlib.crc32(f"{module}/{name}".encode()) & 0x7FFFFFFF)
  x = draw.randn(*shape)
  if name == "w":
    return x / np.sqrt(shape[0])
  return 1 + 0.1 * x if name == "scale" else 0.1 * x


def name_of(path):
  """("shared_project/...", leaf) of one of our parameters."""
  head, layer, leaf = (p.key for p in path)
  module = f"shared_project/{head}/{LAYERS[layer]}"
  is_offset = leaf == "bias" and layer.startswith("bn")
  return module, "offset" if is_offset else LEAVES[leaf]


@pytest.fixture(scope="module")
def heads():
  net = model_lib.Heads(dim=7)
  made = net.init(jax.random.key(0), jnp.zeros((2, 10)))
  fill = lambda path, x: jnp.asarray(published(*name_of(path), x.shape), jnp.float32)
  return net, jax.tree_util.tree_map_with_path(fill, made["params"]), made


@pytest.mark.parametrize("case", ["audio", "video", "both"])
def test_losses_gradients_and_statistics_are_the_released_ones(heads, case):
  golden = np.load(helpers.shared("parity/brave_heads.npz"))
  net, params, made = heads
  broad = {"audio": ["audio"], "video": ["video"], "both": ["video", "audio"]}[case]
  towers = {
    "narrow_video": "narrow_video",
    **{f"broad_{b}": f"broad_{b}" for b in broad},
  }
  gains = {k: published(f"{k}_embedding", "s", (10,)) for k in towers}

  def apply(variables, batch, *, rng, train):
    stats, out = variables["batch_stats"], {}
    for name, key in ((f"broad_{b}", b) for b in (*broad, "narrow")):
      key = {"narrow": "video", "video": "video_broad"}.get(key, key)
      name = "narrow_video" if key == "video" else name
      x = golden[f"i/{name}"] * variables["params"]["gains"][name]
      found, new = net.apply(
        {"params": variables["params"]["heads"], "batch_stats": stats},
        x,
        train=True,
        mutable=["batch_stats"],
      )
      stats = new["batch_stats"]
      out[f"{key}_projection"], out[f"{key}_prediction"] = found
    return out, {"batch_stats": stats}

  batch = {
    "video_frames": jnp.zeros((6, 4, 8, 8, 3), jnp.uint8),
    "video_mask": jnp.ones((6, 4), bool),
    "example_id": jnp.arange(6),
  }
  if "audio" in broad:
    batch |= {"audio_samples": jnp.zeros((6, 4)), "audio_mask": jnp.ones((6, 4), bool)}
  view = dict(size=8)

  def loss(params):
    variables = {"params": params, "batch_stats": made["batch_stats"]}
    terms, _, mutable = brave.brave(
      apply,
      variables,
      batch,
      jax.random.key(0),
      narrow=view,
      broad=view,
      narrow_frames=2,
      broad_stride=2 if "video" in broad else 0,
    )
    values = {k: t.total / t.weight for k, t in terms.items()}
    return sum(terms[k].coef * values[k] for k in terms), (values, mutable)

  every = {"heads": params, "gains": {k: jnp.asarray(x) for k, x in gains.items()}}
  (total, (values, mutable)), grads = jax.value_and_grad(loss, has_aux=True)(every)
  np.testing.assert_allclose(total, golden[f"o/{case}/loss"], rtol=2e-5)
  number = {"video": 1, "audio": 2}
  for b in broad:
    key = "video_broad" if b == "video" else b
    for ours, theirs in (
      ("narrow_from_broad", "b_to_n"),
      ("broad_from_narrow", "n_to_b"),
    ):
      want = golden[f"o/{case}/loss_{theirs}_{number[b]}"]
      np.testing.assert_allclose(values[f"{key}/{ours}"], want, rtol=2e-5)
  for path, x in jax.tree_util.tree_flatten_with_path(grads["heads"])[0]:
    want = golden[f"o/{case}/grad/{'/'.join(name_of(path))}"].reshape(-1)
    got = np.asarray(x).reshape(-1)[: len(want)]
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-6)
  for name, x in grads["gains"].items():
    want = golden[f"o/{case}/grad/{name}_embedding/s"]
    np.testing.assert_allclose(x, want, rtol=2e-3, atol=2e-6)
  if case == "both":
    return  # the released code runs the narrow view twice
  debias = 1 - 0.9**2  # two views; theirs are averages without the zero they began at
  for head, layers in mutable["batch_stats"].items():
    for layer, stats in layers.items():
      for leaf, start in (("mean", 0.0), ("var", 1.0)):
        place = f"shared_project/{head}/{LAYERS[layer]}/~/{leaf}_ema/average"
        want = golden[f"o/{case}/bn/{place}"].reshape(-1)
        got = (np.asarray(stats[leaf]) - start * (1 - debias)) / debias
        np.testing.assert_allclose(got[: len(want)], want, rtol=1e-4, atol=1e-5)


def test_projection_prediction_and_regression(heads):
  golden = np.load(helpers.shared("parity/brave_heads.npz"))
  net, params, made = heads
  variables = {"params": params, "batch_stats": made["batch_stats"]}
  run = dict(train=True, mutable=["batch_stats"])
  (z, h), _ = net.apply(variables, golden["i/narrow_video"], **run)
  np.testing.assert_allclose(z, golden["o/audio/z_narrow"], rtol=2e-4, atol=2e-5)
  np.testing.assert_allclose(h, golden["o/audio/h_narrow"], rtol=2e-4, atol=2e-5)
  x, y = golden["i/reg_x"], golden["i/reg_y"]
  value, grad = jax.value_and_grad(lambda x: brave.regression(x, y).mean())(x)
  np.testing.assert_allclose(value, golden["o/regression"], rtol=1e-6)
  np.testing.assert_allclose(grad, golden["o/regression_grad"], rtol=1e-4, atol=1e-6)
  v = jnp.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 1]])
  a = jnp.array([[1, 0.5, 0], [0, 1, 1], [1, 0, 1]])
  np.testing.assert_allclose(brave.regression(v, a).mean(), 0.193990, atol=1e-6)
  none = jax.grad(lambda x: brave.regression(x, a).sum())(jnp.zeros((3, 3)))
  assert np.isfinite(none).all()


def test_a_step_of_the_whole_model_with_both_broad_views():
  model = model_lib.Model(broad=("video_broad", "audio"), **model_lib.VARIANTS["mu"])
  variables = model.init(jax.random.key(0), batch_lib.zeros(model.spec()))
  rng = np.random.default_rng(0)
  batch = {
    "video_frames": rng.integers(0, 256, (4, 8, 40, 40, 3)).astype(np.uint8),
    "video_mask": np.ones((4, 8), bool),
    "audio_samples": rng.integers(-999, 999, (4, 2560)).astype(np.int16),
    "audio_mask": np.ones((4, 2560), bool),
    "example_id": np.arange(4, dtype=np.int32),
  }
  batch["audio_mask"][3] = False

  def apply(variables, batch, *, rng, train):
    return model.apply(variables, batch, train=train, mutable=["batch_stats"])

  crop = dict(area=(0.3, 1.0), aspect=(0.5, 2.0))
  given = dict(
    narrow=dict(size=32, crop=crop, flip={}),
    broad=dict(size=16, crop=crop, convolve=dict(sizes=(1, 3))),
    narrow_frames=4,
    broad_stride=2,
  )
  terms, _, mutable = jax.jit(
    lambda v, b: brave.brave(apply, v, b, jax.random.key(1), **given)
  )(variables, batch)
  assert set(terms) == {
    f"{v}/{k}"
    for v in ("video_broad", "audio")
    for k in ("narrow_from_broad", "broad_from_narrow")
  }
  assert terms["audio/narrow_from_broad"].weight == 3  # one row has no sound
  assert terms["video_broad/narrow_from_broad"].weight == 4
  assert sum(float(t.coef) for t in terms.values()) == pytest.approx(1.0)
  assert all(np.isfinite(t.total) for t in terms.values())
  moved = jax.tree.map(
    lambda a, b: bool((a != b).any()), variables["batch_stats"], mutable["batch_stats"]
  )
  assert all(jax.tree.leaves(moved))


def test_full_size_and_heads_of_their_own():
  count = lambda model: sum(
    x.size
    for x in jax.tree.leaves(
      jax.eval_shape(model.init, jax.random.key(0), batch_lib.zeros(model.spec()))[
        "params"
      ]
    )
  )
  hidden, dim, wide = 4096, 128, 2048
  projector = wide * hidden + hidden + 2 * hidden + hidden * dim + dim + 2 * dim
  predictor = dim * hidden + hidden + 2 * hidden + hidden * dim + dim
  towers = 23_500_352 + 23_494_080
  assert count(model_lib.Model()) == towers + projector + predictor
  assert count(model_lib.Model(shared=False)) == towers + 2 * (projector + predictor)
  with pytest.raises(ValueError, match="broad is"):
    model_lib.Model(broad=("sound",)).init(jax.random.key(0), {})


def test_random_filters_are_one_a_clip_and_of_any_size():
  rng = np.random.default_rng(0)
  frame = rng.uniform(size=(1, 12, 12, 3)).astype(np.float32)
  clip = jnp.asarray(np.repeat(frame, 2, 0))
  out = convolve.convolve(jax.random.key(3), clip)
  np.testing.assert_allclose(out[0], out[1], rtol=1e-6)
  # Size 1 is one 3 x 3 matrix for all pixels.
  one = convolve.convolve(jax.random.key(4), clip, sizes=(1,))
  _, rest, *_ = np.linalg.lstsq(
    np.asarray(clip).reshape(-1, 3), np.asarray(one).reshape(-1, 3), rcond=None
  )
  assert np.abs(rest).max() < 1e-6
  # Size 3 inside a filter of 5: only neighbours are seen.
  dot = jnp.zeros((1, 9, 9, 3)).at[0, 4, 4, 0].set(1.0)
  keys = jax.random.split(jax.random.key(0), 64)
  seen = jax.vmap(lambda k: convolve.convolve(k, dot, sizes=(1, 3, 5)))(keys)
  extent = np.asarray((np.abs(seen).sum((1, 2, 4)) > 0).sum(-1))
  assert sorted(set(extent.tolist())) == [1, 3, 5]
  many = jax.vmap(lambda k: convolve.convolve(k, clip[:1], sizes=(3,)))(keys)
  # He: a pixel of unit variance comes out with variance 2; here the mean square is 1/3.
  inner = np.asarray(many)[:, 0, 2:-2, 2:-2]
  assert np.square(inner).mean() == pytest.approx(2 / 3, rel=0.25)
  same = convolve.convolve(jax.random.key(1), clip, p=0.0)
  np.testing.assert_array_equal(same, clip)
  with pytest.raises(ValueError, match="odd"):
    convolve.convolve(jax.random.key(1), clip, sizes=(2,))
