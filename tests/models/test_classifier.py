"""The classifier: shapes and counts of every variant, masks, windows, a step."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlp_jax import batch as batch_lib
from vlp_jax import resolve, state
from vlp_jax.errors import UserError
from vlp_jax.metrics import Mean
from vlp_jax.models import classifier
from vlp_jax.objectives import classify

TINY = dict(
  space_to_depth=(),
  stem_width=4,
  stem_window=(2, 2, 2),
  stem_strides=(2, 2, 2),
  stages=(("maxpool_2a", "pool", (1, 3, 3), (1, 2, 2)),),
)


def make(**given):
  model = resolve.model(dict(name="classifier", num_classes=4) | given)
  init = jax.jit(lambda key: model.init(key, batch_lib.zeros(model.spec())))
  return nn.unbox(init(jax.random.key(0))), state.make_apply(model)


@pytest.fixture(scope="module")
def heard():
  return make(variant="mu", dropout=0.5)


def sounds(lengths, size=4000, seed=0):
  samples = np.random.default_rng(seed).integers(-9000, 9000, (len(lengths), size))
  mask = np.arange(size) < np.array(lengths)[:, None]
  return {"audio_samples": jnp.asarray(samples, jnp.int16), "audio_mask": mask}


PUBLISHED = {  # of the tower: R(2+1)D-18 twice, S3D-G, TSM-50, audio ResNet-50
  "r2plus1d": (31_300_125, 512),
  "r2plus1d_xdc": (33_165_639, 512),
  "s3d": (9_146_000, 1024),
  "tsm_resnet": (23_500_352, 2048),
  "audio_resnet50": (23_494_080, 2048),
}


@pytest.mark.parametrize("variant", list(classifier.VARIANTS))
def test_every_variant_has_its_shapes(variant):
  model = resolve.model(dict(name="classifier", variant=variant, num_classes=7))
  spec = model.spec()
  shapes = jax.eval_shape(model.init, jax.random.key(0), batch_lib.zeros(spec))
  if variant in PUBLISHED:
    tower, width = PUBLISHED[variant]
    count = sum(x.size for x in jax.tree.leaves(shapes["params"]))
    assert count == tower + 7 * (width + 1)
  wider = {k: jax.ShapeDtypeStruct((3, *s.shape[1:]), s.dtype) for k, s in spec.items()}
  out = jax.eval_shape(model.apply, shapes, wider)
  assert out["logits"].shape == (3, 7)
  assert out["logits"].dtype == out[f"{model.sees}_features"].dtype == jnp.float32
  assert out[f"{model.sees}_features"].shape[0] == 3


def test_sound_behind_the_mask_changes_nothing(heard):
  variables, apply = heard
  given = sounds([4000, 1500, 0])
  out, _ = apply(variables, given)
  assert out["logits_mask"].tolist() == [True, True, False]
  assert (out["audio_features"][2] == 0).all()
  noise = jnp.where(given["audio_mask"], given["audio_samples"], 99)
  again, _ = apply(variables, given | {"audio_samples": noise})
  np.testing.assert_array_equal(out["logits"], again["logits"])
  # `normalise="example"`: loudness goes (samples are halved exactly where even).
  quiet = sounds([4000, 1500, 0])
  quiet["audio_samples"] = quiet["audio_samples"] // 2 * 2
  half, _ = apply(variables, quiet | {"audio_samples": quiet["audio_samples"] // 2})
  whole, _ = apply(variables, quiet)
  np.testing.assert_allclose(half["logits"], whole["logits"], atol=2e-3)


def test_windows_of_a_clip_are_classified_one_by_one():
  variables, apply = make(tower="s3d", tower_args=TINY)
  rng = np.random.default_rng(1)
  frames = jnp.asarray(rng.integers(0, 255, (2, 3, 4, 16, 16, 3)), jnp.uint8)
  mask = np.ones((2, 3, 4), bool)
  mask[1, 2] = False
  many, _ = apply(variables, {"video_frames": frames, "video_mask": mask})
  assert many["logits"].shape == (2, 3, 4)
  assert many["logits_mask"].tolist() == [[True] * 3, [True, True, False]]
  one, _ = apply(variables, {"video_frames": frames[:, 1], "video_mask": mask[:, 1]})
  np.testing.assert_allclose(one["logits"], many["logits"][:, 1], atol=1e-5)
  same = frames.at[1, 2].set(7)
  again, _ = apply(variables, {"video_frames": same, "video_mask": mask})
  np.testing.assert_array_equal(many["logits"], again["logits"])


def test_a_video_tower_reads_pictures():
  variables, apply = make(
    tower="s3d", tower_args=TINY | dict(deflated=True), stream="image"
  )
  pixels = jnp.asarray(
    np.random.default_rng(2).integers(0, 255, (2, 16, 16, 3)), jnp.uint8
  )
  out, _ = apply(variables, {"image_pixels": pixels})
  assert out["image_features"].shape == (2, 4)
  assert "image_tower" in variables["params"]


def test_a_step_lowers_the_loss_and_dropout_draws(heard):
  variables, apply = heard
  given = sounds([4000] * 6) | {
    "label": jnp.asarray([0, 1, 2, 3, 0, -1], jnp.int32),
    "example_id": jnp.arange(6, dtype=jnp.int32),
  }
  rest = {"batch_stats": variables["batch_stats"]}

  @jax.jit
  def loss_fn(params, key):
    terms, aux, _ = classify.softmax(apply, rest | {"params": params}, given, key)
    term = terms["classify"]
    return Mean(term.total, term.weight).value, (term.weight, aux)

  key = jax.random.key(0)
  both = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  (before, (weight, aux)), grads = both(variables["params"], key)
  assert weight == 5
  assert aux["accuracy@5"].value == 1
  assert before == pytest.approx(np.log(4), abs=0.2)
  stepped = optax.apply_updates(
    variables["params"], jax.tree.map(lambda g: -0.1 * g, grads)
  )
  assert loss_fn(stepped, key)[0] < before
  assert loss_fn(variables["params"], jax.random.key(1))[0] != before


def test_mistakes_are_told():
  with pytest.raises(ValueError, match="no tower 'r2plus2d'"):
    make(tower="r2plus2d")
  with pytest.raises(ValueError, match="stream is ''"):
    make(tower="s3d:S3D")
  with pytest.raises(UserError, match="normalise is 'rows'"):
    make(variant="mu", normalise="rows")
  with pytest.raises(UserError, match="unknown key 'widhts'"):
    make(tower_args=dict(widhts=(8,)))
