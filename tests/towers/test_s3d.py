"""S3D-G and its companions: order of frames, rows without a clip, switches, colours."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import volumes as reference
from vlp_jax.towers import colour_histogram, s3d, word2vec_bag

STAGES = (
  ("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),
  ("conv_2c", "separable", 6),
  ("gating", "gate"),
  ("mixed_3b", "inception", 4, 4, 4, 4, 4, 4),
)


def tower(**fields):
  given = dict(embed_dim=8, stem_width=6, stages=STAGES)
  return s3d.S3D(**(given | fields))


def frames(rows=3, length=8, size=16, seed=0):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, (rows, length, size, size, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def small():
  """(tower, its variables, a compiled run in evaluation mode)."""
  net = tower()
  variables = jax.jit(net.init)(jax.random.key(0), frames())
  return net, variables, jax.jit(net.apply)


def test_embedding_depends_on_the_order_of_frames(small):
  _, variables, run = small
  clips = frames()
  forward, backward = (run(variables, c)["embed"] for c in (clips, clips[:, ::-1]))
  assert forward.shape == (3, 8)
  assert np.abs(forward - backward).max() > 1e-4


def test_bytes_and_shares_of_255_are_the_same(small):
  _, variables, run = small
  clips = frames()
  a, b = (run(variables, c)["embed"] for c in (clips, clips / np.float32(255)))
  np.testing.assert_allclose(a, b, atol=1e-6)


def test_stages_on_request(small):
  net, variables, _ = small
  out = jax.jit(lambda c: net.apply(variables, c, stages=True))(frames(1))
  shapes = {k: x.shape[1:] for k, x in out["stages"].items()}
  assert shapes == {
    "conv1": (5, 9, 9, 6),  # one too many a side, dropped next
    "maxpool_2a": (4, 4, 4, 6),
    "conv_2c": (4, 4, 4, 6),
    "gating": (4, 4, 4, 6),
    "mixed_3b": (4, 4, 4, 16),
  }
  mean = out["stages"]["mixed_3b"].mean((1, 2, 3))
  np.testing.assert_allclose(out["features"], mean, rtol=1e-5)


def test_rows_without_a_clip_stay_out_of_the_statistics(small):
  net, variables, _ = small
  clips, where = frames(4), np.array([True, True, False, True])
  run = jax.jit(
    lambda c, w: net.apply(variables, c, train=True, where=w, mutable=["batch_stats"])
  )
  other = clips.copy()
  other[2] = 255 - other[2]
  (a, stats), (b, same) = run(clips, where), run(other, where)
  np.testing.assert_array_equal(a["embed"][where], b["embed"][where])
  jax.tree.map(np.testing.assert_array_equal, stats, same)
  (c, _), (d, _) = (run(x, np.ones(4, bool)) for x in (clips, other))
  assert (c["embed"][where] != d["embed"][where]).any()


def test_both_stems_and_neither_head():
  plain = tower(space_to_depth=(), stem_window=(3, 7, 7), stem_strides=(2, 2, 2))
  made = jax.eval_shape(plain.init, jax.random.key(0), frames(1))
  assert made["params"]["conv1"]["conv1"]["kernel"].shape == (3, 7, 7, 3, 6)
  out = jax.eval_shape(lambda v: plain.apply(v, frames(1), stages=True), made)
  assert out["stages"]["conv1"].shape == (1, 4, 8, 8, 6)
  bare = tower(embed_dim=0)
  made = jax.eval_shape(bare.init, jax.random.key(0), frames(1))
  assert "fc" not in made["params"]
  assert set(jax.eval_shape(bare.apply, made, frames(1))) == {"features"}


def test_half_precision_keeps_parameters_and_outputs_wide():
  net = tower(dtype=jnp.bfloat16)
  made = jax.eval_shape(net.init, jax.random.key(0), frames(1))
  assert {x.dtype for x in jax.tree.leaves(made)} == {jnp.dtype("float32")}
  out = jax.eval_shape(lambda v: net.apply(v, frames(1), stages=True), made)
  assert out["embed"].dtype == out["features"].dtype == jnp.float32
  assert out["stages"]["mixed_3b"].dtype == jnp.bfloat16


def test_full_sizes_at_the_published_resolutions():
  net = s3d.S3D()
  clips = jax.ShapeDtypeStruct((1, 32, 224, 224, 3), jnp.uint8)
  made = jax.eval_shape(net.init, jax.random.key(0), clips)
  run = lambda v, c: net.apply(v, c, stages=True)["stages"]
  sizes = {k: x.shape[1:3] for k, x in jax.eval_shape(run, made, clips).items()}
  got = [sizes[k] for k in ("maxpool_2a", "maxpool_3a", "maxpool_4a", "mixed_5c")]
  assert got == [(16, 56), (16, 28), (8, 14), (4, 7)]
  clips = jax.ShapeDtypeStruct((1, 32, 200, 200, 3), jnp.uint8)
  sizes = {k: x.shape[2] for k, x in jax.eval_shape(run, made, clips).items()}
  got = [sizes[k] for k in ("maxpool_2a", "maxpool_3a", "maxpool_4a", "mixed_5c")]
  assert got == [50, 25, 13, 7]


def test_mistakes_are_named():
  with pytest.raises(ValueError, match=r"takes \[B, T, H, W, 3\]"):
    tower().init(jax.random.key(0), frames()[0])
  with pytest.raises(ValueError, match="'dense'"):
    tower(stages=(("last", "dense", 3),)).init(jax.random.key(0), frames(1))


# ----- bag of words


def bag(**fields):
  net = word2vec_bag.Word2VecBag(20, embed_dim=4, word_dim=5, mlp_dim=6, **fields)
  ids = np.array([[3, 4, 0], [7, 0, 0]], np.int32)
  variables = net.init(jax.random.key(0), ids, ids > 0)
  return net, variables, ids


def test_bag_takes_the_maximum_over_words():
  net, variables, ids = bag()
  p = variables["params"]
  hidden = np.maximum(p["words"][ids] @ p["fc1"]["kernel"] + p["fc1"]["bias"], 0)
  last = lambda x: x @ p["fc2"]["kernel"] + p["fc2"]["bias"]
  got = net.apply(variables, ids, ids > 0)
  np.testing.assert_allclose(got, last(hidden.max(1)), rtol=1e-5, atol=1e-6)
  net, _, _ = bag(pad_in_max=False)
  got = net.apply(variables, ids, ids > 0)
  want = np.stack([hidden[0, :2].max(0), hidden[1, 0]])
  np.testing.assert_allclose(got, last(want), rtol=1e-5, atol=1e-6)
  assert np.abs(last(want) - last(hidden.max(1))).max() > 1e-3


@pytest.mark.parametrize("train_words", [False, True])
def test_the_table_is_frozen_unless_asked(train_words):
  net, variables, ids = bag(train_words=train_words)
  total = lambda v: (net.apply(v, ids, ids > 0) ** 2).sum()
  grads = jax.grad(total)(variables)["params"]
  assert bool(grads["words"].any()) is train_words
  assert grads["fc1"]["kernel"].any()


def test_words_behind_the_mask_do_not_matter():
  net, variables, ids = bag()
  other = np.where(ids > 0, ids, 9)
  a, b = (net.apply(variables, x, ids > 0) for x in (ids, other))
  np.testing.assert_array_equal(a, b)


# ----- colour histogram


def test_histogram_counts_the_pixels_of_real_frames():
  clips, mask = frames(2, 3, 4), np.array([[True, True, False], [False] * 3])
  got = colour_histogram.histogram(clips, mask, bins=4, soft=False)
  want = reference.colour_histogram(clips, mask, 4)
  np.testing.assert_allclose(got, want, atol=1e-6)
  assert got[0].sum() == pytest.approx(1)
  assert not got[1].any()


def test_soft_histogram_is_linear_between_centres():
  grey = np.full((1, 1, 1, 1, 3), 0.5, np.float32)  # midway between the middle centres
  got = colour_histogram.histogram(grey, np.ones((1, 1), bool), bins=4)
  want = np.zeros((4, 4, 4))
  want[1:3, 1:3, 1:3] = 1 / 8
  np.testing.assert_allclose(got[0], want.ravel(), atol=1e-6)


def test_histogram_does_not_see_order():
  net = colour_histogram.ColourHistogram(embed_dim=4, mlp_dim=8)
  clips, mask = frames(2, 4, 8), np.ones((2, 4), bool)
  variables = net.init(jax.random.key(0), clips, mask)
  a, b = (net.apply(variables, c, mask)["embed"] for c in (clips, clips[:, ::-1]))
  np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.parametrize(
  "remat", [pytest.param("dots", marks=pytest.mark.slow), "full"]
)
def test_recompute_changes_no_number(small, remat):
  """Gradients and running statistics, with a row that counts in neither."""
  variables, where = small[1], np.array([True, True, False])

  def grads_of(net):
    def loss(params):
      given = dict(train=True, where=where, mutable=["batch_stats"])
      out, new = net.apply(variables | {"params": params}, frames(), **given)
      return (out["embed"] ** 2).sum(), new

    return jax.grad(loss, has_aux=True)

  want, got = (jax.jit(grads_of(tower(remat=r))) for r in ("none", remat))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
  jax.tree.map(close, got(variables["params"]), want(variables["params"]))
  assert "remat" in str(
    jax.make_jaxpr(grads_of(tower(remat=remat)))(variables["params"])
  )
