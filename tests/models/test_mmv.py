"""MMV: published counts and outputs, graphs of heads, missing modalities, devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests import helpers
from tests.reference import haiku
from vlp_jax import batch as batch_lib
from vlp_jax import state as state_lib
from vlp_jax.importers import mmv as importer
from vlp_jax.models import deflated, mmv
from vlp_jax.objectives import mmv as objective

WORDS = 65_536
WIDTH = 32
# Where only the graph of heads matters.
TINY = dict(
  video_args=dict(
    stem_width=4, stem_window=(2, 2, 2), stages=(("conv_2b", "point", 4),)
  ),
  audio_args=dict(depths=(1,), widths=(8,), stem_width=4),
)


def make(variant="mu", vocab_size=30, **more):
  return mmv.Model(vocab_size=vocab_size, **(mmv.VARIANTS[variant] | more))


def count(tree):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0), batch_lib.zeros(model.spec()))


@pytest.mark.parametrize(
  ("variant", "graph", "heads", "total", "arrays"),
  [
    ("s3d", "fac", 4_592_640, 57_509_968, 475),
    ("tsm_resnet", "fac", 5_116_928, 72_388_608, 324),
    ("s3d", "shared", 2_887_168, None, None),
    ("s3d", "disjoint", 5_774_336, None, None),
  ],
)
def test_published_parameter_counts(variant, graph, heads, total, arrays):
  made = shapes(make(variant, WORDS, graph=graph))
  params = made["params"]
  towers = {k: count(x) for k, x in params.items() if k.endswith("_tower")}
  assert towers["audio_tower"] == 23_494_080
  assert towers["text_tower"] == 20_277_248
  assert count(params) - sum(towers.values()) == heads
  if total:
    assert count(params) == total
    assert len(jax.tree.leaves(params)) == arrays
    norms = {"s3d": 128}.get(variant, 101)
    assert len(jax.tree.leaves(made["batch_stats"])) == 2 * norms


def test_small_is_small():
  assert count(shapes(make("small", 300))["params"]) < 1_000_000


def test_r2plus1d_is_a_choice():
  assert count(shapes(make("r2plus1d"))["params"]["video_tower"]) == 31_300_125


# ----- batches of the tiny net


def batch(rows=8, seed=0, seconds=0.4):
  """Row 1 has no picture, row 2 no sound, row 3 no words."""
  rng = np.random.default_rng(seed)
  ids = rng.integers(1, 30, (rows, 3, 5)).astype(np.int32)
  words = np.arange(5) < rng.integers(1, 6, (rows, 3, 1))
  words[3] = False
  samples = round(16_000 * seconds)
  at = np.arange(rows)
  return {
    "video_frames": rng.integers(0, 256, (rows, 4, WIDTH, WIDTH, 3)).astype(np.uint8),
    "video_mask": np.repeat((at != 1)[:, None], 4, 1),
    "audio_samples": rng.integers(-9000, 9000, (rows, samples)).astype(np.int16),
    "audio_mask": np.repeat((at != 2)[:, None], samples, 1),
    "narration_ids": np.where(words, ids, 0),
    "narration_mask": words,
    "example_id": at.astype(np.int32),
  }


def init(model):
  return jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))


@pytest.fixture(scope="module")
def fac():
  """(model, variables, compiled evaluation run, compiled training run)."""
  model = make(**TINY)
  apply = state_lib.make_apply(model)
  train = jax.jit(lambda v, b: apply(v, b, train=True))
  return model, init(model), jax.jit(model.apply), train


def test_outputs_of_the_graph(fac):
  _, variables, run, train = fac
  b = batch()
  batch_lib.check(b)
  sizes = {
    "video_embed": (8, 8),
    "video_embed_audio": (8, 16),
    "video_features": (8, 4),
    "audio_embed": (8, 16),
    "audio_embed_text": (8, 8),
    "audio_features": (8, 8),
    "text_embed": (8, 3, 8),
    "text_embed_audio": (8, 3, 16),
  }
  out = run(variables, b)
  assert {k: x.shape for k, x in out.items()} == sizes
  del sizes["audio_embed_text"]
  out, _ = train(variables, b)
  assert {k: x.shape for k, x in out.items()} == sizes


def test_missing_modalities_and_rows(fac):
  model, variables, run, _ = fac
  b = batch()
  out = run(variables, b)
  for key, row in (("video", 1), ("audio", 2), ("text", 3)):
    mine = {k: np.array(x) for k, x in out.items() if k.startswith(key)}
    assert all(not x[row].any() for x in mine.values())
    assert all(x[0].any() for x in mine.values())
  for stream, method in (("audio", "encode_audio"), ("narration", "encode_text")):
    part = {k: x for k, x in b.items() if k.startswith(stream)}
    alone = jax.jit(lambda v, b, m=method: model.apply(v, b, method=m))(variables, part)
    for k, x in alone.items():
      np.testing.assert_allclose(x, out[k], atol=1e-5)
  one = {"text_ids": b["narration_ids"][:, 1], "text_mask": b["narration_mask"][:, 1]}
  words = model.apply(variables, one, method="encode_text")["text_embed"]
  np.testing.assert_allclose(words, out["text_embed"][:, 1], atol=1e-5)


def test_sound_reaches_words_through_the_coarse_head(fac):
  model, variables, run, _ = fac
  out = run(variables, batch())
  head = mmv.project.Projection(model.coarse_dim, bn_after=True)
  mine = {k: x["video_to_text"] for k, x in variables.items()}
  through = lambda x: head.apply(mine, jax.nn.relu(x))
  pairs = (("audio_embed", "audio_embed_text"), ("video_embed_audio", "video_embed"))
  for fine, coarse in pairs:
    rows = np.array(out[fine]).any(-1)
    np.testing.assert_allclose(through(out[fine])[rows], out[coarse][rows], atol=1e-5)


def test_sound_is_in_no_statistics_of_the_coarse_head(fac):
  _, variables, _, train = fac
  b, other = batch(), batch(seed=1)
  changed = b | {"audio_samples": other["audio_samples"]}
  (_, one), (_, two) = train(variables, b), train(variables, changed)
  one, two = one["batch_stats"], two["batch_stats"]
  differ = lambda k: any(
    np.abs(a - b).max() > 1e-6
    for a, b in zip(jax.tree.leaves(one[k]), jax.tree.leaves(two[k]), strict=True)
  )
  assert not differ("video_to_text")
  assert not differ("video_to_audio")
  assert not differ("video_tower")
  assert differ("audio_tower")


def test_masked_rows_are_in_no_statistics(fac):
  _, variables, _, train = fac
  b, other = batch(), batch(seed=2)
  wild = {k: np.array(x) for k, x in b.items()}
  wild["video_frames"][1] = other["video_frames"][1]
  wild["audio_samples"][2] = other["audio_samples"][2]
  wild["narration_ids"][3] = 7
  (out, stats), (same, again) = train(variables, b), train(variables, wild)
  jax.tree.map(np.testing.assert_array_equal, out, same)
  jax.tree.map(np.testing.assert_array_equal, stats, again)


def gradients(model, variables, b, **weights):
  """{top name: whether any gradient reaches it} of a weighted sum of losses."""
  apply = state_lib.make_apply(model)
  rest = {k: v for k, v in variables.items() if k != "params"}

  def loss(params):
    terms, _, _ = objective.mmv(
      apply, rest | {"params": params}, b, jax.random.key(0), **weights
    )
    return sum(t.value * t.coef / t.coef for t in terms.values())

  grads = jax.jit(jax.grad(loss))(variables["params"])
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))
  return {
    k: any(np.abs(x).max() > 0 for x in jax.tree.leaves(g)) for k, g in grads.items()
  }


def test_what_each_loss_of_the_fac_graph_reaches(fac):
  model, variables, _, _ = fac
  va = gradients(model, variables, batch(), vt=0.0)
  assert {k for k, some in va.items() if some} == {
    "video_tower",
    "audio_tower",
    "video_to_audio",
    "audio_to_video",
  }
  vt = gradients(model, variables, batch(), va=0.0)
  assert {k for k, some in vt.items() if some} == {
    "video_tower",
    "text_tower",
    "video_to_audio",  # coarse lies behind fine
    "video_to_text",
    "text_to_video",
  }


def test_sound_may_train_the_coarse_head_if_asked():
  model = make(audio_text=True, **TINY)
  variables = init(model)
  at = gradients(model, variables, batch(), va=0.0, vt=0.0, at=1.0)
  assert at["video_to_text"]
  assert at["audio_tower"]
  assert not at["video_tower"]
  assert not at["audio_to_text"]


def test_disjoint_losses_share_the_towers_only():
  model = make(graph="disjoint", **TINY)
  variables = init(model)
  own = {"at_outputs": ("audio_embed_text", "text_embed_audio")}
  reached = [
    {k for k, some in gradients(model, variables, batch(), **w).items() if some}
    for w in ({"vt": 0.0}, {"va": 0.0}, {"va": 0.0, "vt": 0.0, "at": 1.0} | own)
  ]
  assert reached[0] & reached[1] == {"video_tower"}
  assert reached[1] & reached[2] == {"text_tower"}
  assert reached[0] & reached[2] == {"audio_tower"}
  assert set.union(*reached) == set(variables["params"])


def test_shared_has_one_head_a_modality_and_one_space():
  model = make(graph="shared", **TINY)
  variables = init(model)
  heads = {k for k in variables["params"] if not k.endswith("_tower")}
  assert heads == {"video_head", "audio_head", "text_head"}
  out = jax.jit(model.apply)(variables, batch())
  for a, b in (
    ("video_embed", "video_embed_audio"),
    ("audio_embed", "audio_embed_text"),
    ("text_embed", "text_embed_audio"),
  ):
    np.testing.assert_array_equal(out[a], out[b])


def test_a_step_is_the_same_on_any_number_of_devices(fac):
  """Loss, statistics and gradients in float64: rows without a modality among them."""
  _, variables, _, _ = fac
  apply = state_lib.make_apply(make(dtype="float64", **TINY))
  with jax.enable_x64(True):
    wide = lambda x: np.asarray(x, np.float64)
    params, stats = (
      jax.tree.map(wide, variables[k]) for k in ("params", "batch_stats")
    )

    @jax.jit
    def step(params, stats, b):
      def loss(params):
        variables = {"params": params, "batch_stats": stats}
        out = objective.mmv(apply, variables, b, jax.random.key(0))
        return sum(t.value for t in out[0].values()), out[2]

      return jax.value_and_grad(loss, has_aux=True)(params)

    def on(count):
      mesh = jax.make_mesh(
        (count,), ("data",), axis_types=(AxisType.Auto,), devices=jax.devices()[:count]
      )
      rows, every = (NamedSharding(mesh, PartitionSpec(*a)) for a in (("data",), ()))
      given = jax.device_put((params, stats), every)
      b = batch()
      b["audio_samples"] = b["audio_samples"] / 32768  # the spectrogram in float64 too
      return jax.device_get(step(*given, jax.device_put(b, rows)))

    want = on(1)
    assert want[0][0].dtype == np.float64
    for count in (2, 8):
      near = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-7, atol=1e-9)
      jax.tree.map(near, on(count), want)


@pytest.mark.slow
def test_sixteen_triplets_are_learnt_by_heart():
  model = make(**TINY)
  variables, tx = init(model), optax.adam(3e-3)
  apply = state_lib.make_apply(model)
  b = batch(16, seconds=0.2)
  b |= {
    f"{k}_mask": np.ones_like(b[f"{k}_mask"]) for k in ("video", "audio", "narration")
  }
  b["narration_ids"] = np.random.default_rng(5).integers(1, 30, (16, 3, 5)).astype("i4")

  @jax.jit
  def step(variables, opt_state):
    rest = {"batch_stats": variables["batch_stats"]}

    def loss(params):
      out = objective.mmv(apply, rest | {"params": params}, b, jax.random.key(0))
      return sum(t.value for t in out[0].values()), out

    grads, (_, aux, new) = jax.grad(loss, has_aux=True)(variables["params"])
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params} | new, opt_state, aux

  opt_state = tx.init(variables["params"])
  for _ in range(120):
    variables, opt_state, aux = step(variables, opt_state)
  assert aux["va/accuracy"].value == 1
  assert aux["vt/accuracy"].value == 1


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="'coarse'"):
    shapes(make(graph="coarse"))
  with pytest.raises(ValueError, match="'i3d'"):
    shapes(make(video="i3d", video_args={}))
  with pytest.raises(ValueError, match="'vatt'"):
    make(front_end="vatt").spec()


# ----- still pictures


def test_a_deflated_model_returns_both_sides():
  model = deflated.Model(video_args=TINY["video_args"], num_frames=4)
  variables = init(model)
  pictures = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype(np.uint8)
  run = jax.jit(model.apply)
  out = run(variables, {"image_pixels": pictures})
  assert {k: x.shape for k, x in out.items()} == {
    "image_features": (2, 4),
    "video_features": (2, 4),
  }
  clip = jnp.array(pictures)[:, None]
  same = run(variables, {"video_frames": jnp.concatenate([clip, 255 - clip], axis=1)})
  np.testing.assert_array_equal(out["image_features"], same["image_features"])
  with pytest.raises(ValueError, match="'i3d'"):
    shapes(deflated.Model(video="i3d"))


# ----- published outputs


@pytest.mark.slow
def test_published_outputs_of_every_projection():
  _, inputs, outputs, meta = helpers.golden("mmv_s3d_recipe")
  model = make("s3d_plain", 50)
  variables, report = importer.convert(haiku.arrays(meta), model)
  assert len(meta["params"]) == 475
  assert len(report.loaded) == 475 + 2 * 128
  assert not report.missing
  assert len(report.unused) == 768 - 256  # hidden averages and counters
  frames = jnp.asarray(inputs["video"])
  words = jnp.asarray(inputs["words"].astype(np.int32))
  clips = {"video_frames": frames, "video_mask": jnp.ones(frames.shape[:2], bool)}
  texts = {"text_ids": words, "text_mask": jnp.ones(words.shape, bool)}

  @jax.jit
  def run(variables, sound):
    real = jnp.ones(len(sound), bool)
    out = model.apply(variables, sound, real, method="encode_logmel")
    return out | model.apply(variables, clips) | model.apply(variables, texts)

  out = run(variables, jnp.asarray(inputs["audio"][..., 0]))
  for ours, theirs in (
    ("video_features", "vid_repr"),
    ("audio_features", "aud_repr"),
    ("video_embed_audio", "vid_embd_toaud"),
    ("video_embed", "vid_embd_totxt"),
    ("audio_embed", "aud_embd_tovid"),
    ("audio_embed_text", "aud_embd_totxt"),
    ("text_embed", "txt_embd_tovid"),
    ("text_embed_audio", "txt_embd_toaud"),
  ):
    np.testing.assert_allclose(out[ours], outputs[theirs], rtol=1e-5, atol=1e-4)
