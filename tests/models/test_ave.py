"""AVE-Net and AVOL-Net: counts, unit vectors, distance, the map and its gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.models.test_l3 import batch, count, full, shapes
from vlp_jax import batch as batch_lib
from vlp_jax import state as state_lib
from vlp_jax.models import ave
from vlp_jax.objectives import correspondence


def make(kind, **more):
  args = dict(widths=(4, 6), first_stride=1)
  given = dict(kind=kind, embed_dim=5, front_end="mmv16k")
  return ave.Model(**(given | dict(video_args=args, audio_args=args) | more))


def init(model, seed=0):
  return jax.jit(model.init)(jax.random.key(seed), batch_lib.zeros(model.spec()))


def test_published_parameter_counts_and_the_map():
  model = ave.Model(**ave.VARIANTS["ave"])
  made = shapes(model)
  assert count(made["params"]) == 9_541_636
  out = jax.eval_shape(model.apply, made, full())
  assert out["video_embed"].shape == out["audio_embed"].shape == (2, 128)
  assert out["match_logits"].shape == (2, 2)
  model = ave.Model(**ave.VARIANTS["avol"])
  made = shapes(model)
  assert count(made["params"]) == 9_541_634
  out = jax.eval_shape(model.apply, made, full())
  assert out["location"].shape == out["location_logits"].shape == (2, 14, 14)
  assert out["video_map"].shape == (2, 14, 14, 128)
  assert out["match_logits"].shape == (2,)
  fine = ave.Model(**ave.VARIANTS["small_avol"])
  small = full() | {"video_frames": jax.ShapeDtypeStruct((2, 3, 64, 64, 3), jnp.uint8)}
  assert jax.eval_shape(fine.apply, shapes(fine), small)["location"].shape == (2, 8, 8)
  with pytest.raises(ValueError, match="'avel'"):
    shapes(make("avel"))


@pytest.fixture(scope="module")
def nets():
  """{kind: (model, variables, outputs of training)}."""
  out = {}
  for kind in ave.KINDS:
    model = make(kind)
    variables = init(model)
    run = jax.jit(
      lambda v, b, m=model: m.apply(v, b, train=True, mutable="batch_stats")
    )
    out[kind] = model, variables, run(variables, batch())[0]
  return out


def test_embeddings_of_ave_are_unit_vectors(nets):
  out = nets["ave"][2]
  for stream, missing in (("video", 1), ("audio", 2)):
    norms = np.linalg.norm(out[f"{stream}_embed"], axis=1)
    np.testing.assert_allclose(norms, np.arange(4) != missing, atol=1e-6)


def test_yes_falls_with_the_distance_at_first(nets):
  model, variables, out = nets["ave"]
  far = np.linalg.norm(out["video_embed"] - out["audio_embed"], axis=1)
  kernel = np.array(variables["params"]["match"]["kernel"])
  assert kernel[0, 1] < 0 < kernel[0, 0]
  np.testing.assert_allclose(out["match_logits"], far[:, None] * kernel, atol=1e-5)

  def loss(x):
    pair = {"video_embed": x, "audio_embed": x}
    return model.apply(variables, pair, method="score")["match_logits"].sum()

  grads = jax.grad(loss)(jnp.ones((2, 5)))  # a distance of 0
  assert np.isfinite(grads).all()


def test_the_map_by_hand_and_its_peak(nets):
  model, variables, out = nets["avol"]
  p = variables["params"]
  assert p["scale"] == np.float32(model.scale_init)
  places = np.einsum("bhwd,bd->bhw", out["video_map"], out["audio_embed"])
  want = p["scale"] * places + p["bias"]
  np.testing.assert_allclose(out["location_logits"], want, rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(
    out["match_logits"], want.max((1, 2)), rtol=1e-4, atol=1e-6
  )
  sigmoid = 1 / (1 + np.exp(-want))
  np.testing.assert_allclose(out["location"], sigmoid, rtol=1e-4)


def test_the_gradient_goes_through_one_place_only(nets):
  model, variables, _ = nets["avol"]
  rng = np.random.default_rng(0)
  seen = rng.normal(size=(3, 4, 4, 5)).astype(np.float32)
  seen[2] = seen[2, 0, 0]  # all places are equal
  heard = rng.normal(size=(3, 5)).astype(np.float32)

  def loss(seen):
    pair = {"video_map": seen, "audio_embed": heard}
    return model.apply(variables, pair, method="score")["match_logits"].sum()

  grads = np.array(jax.grad(loss)(jnp.array(seen)))
  some = np.abs(grads).max(-1).reshape(3, -1) > 0
  assert (some.sum(1) == 1).all()
  peak = np.einsum("bhwd,bd->bhw", seen, heard).reshape(3, -1).argmax(1)
  np.testing.assert_array_equal(some[:2].argmax(1), peak[:2])


def test_another_sound_gives_another_map(nets):
  model, variables, _ = nets["avol"]
  variables = variables | {"params": variables["params"] | {"scale": jnp.ones(())}}
  rows = {k: x[[0, 0, 3, 3]] for k, x in batch().items()}
  rows["audio_samples"] = rows["audio_samples"][[0, 2, 2, 0]]
  run = jax.jit(lambda v, b: model.apply(v, b, train=True, mutable="batch_stats")[0])
  maps = np.array(run(variables, rows)["location_logits"])
  assert np.abs(maps[0] - maps[1]).max() > 1e-3
  assert np.abs(maps[2] - maps[3]).max() > 1e-3


# ----- a planted object

COLOURS = 250 * np.array(
  [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]], np.uint8
)


def planted(rng, rows, sounding=0, size=16, hz=16_000):
  """Two squares; the sound is the tone of one's colour, in whose quarter it lies."""
  colour = np.array([rng.permutation(6)[:2] for _ in range(rows)])
  frames = np.full((rows, 1, size, size, 3), 30, np.uint8)
  quarter = np.array([rng.permutation(4)[:2] for _ in range(rows)])
  for i in range(rows):
    for k in range(2):
      y, x = 8 * (quarter[i, k] // 2) + 1, 8 * (quarter[i, k] % 2) + 1
      frames[i, 0, y : y + 6, x : x + 6] = COLOURS[colour[i, k]]
  t = np.arange(1_600) / hz
  tone = 400.0 * 1.6 ** colour[:, sounding, None]
  samples = 9_000 * np.sin(2 * np.pi * (tone * t + rng.uniform(size=(rows, 1))))
  return {
    "video_frames": frames,
    "video_mask": np.ones((rows, 1), bool),
    "audio_samples": samples.astype(np.int16),
    "audio_mask": np.ones(samples.shape, bool),
    "example_id": np.arange(rows, dtype=np.int32),
  }, quarter[:, sounding]


@pytest.mark.slow
def test_planted_objects_are_found():
  # A place sees 7 of 16 pixels: a square, not all of the picture.
  video, audio = (dict(widths=w, first_stride=2) for w in ((16,), (8, 16)))
  given = dict(video_args=video, audio_args=audio, scale_init=0.1)
  model = make("avol", embed_dim=16, **given)
  apply, variables = state_lib.make_apply(model), init(model)
  tx = optax.adam(optax.cosine_decay_schedule(1e-2, 600))

  @jax.jit
  def step(variables, opt_state, b, key):
    rest = {"batch_stats": variables["batch_stats"]}

    def loss(params):
      given = dict(audio_hz=16_000, window_s=0.1)
      out = correspondence.avc(apply, rest | {"params": params}, b, key, **given)
      return out[0]["avc"].value, out

    grads, (_, aux, new) = jax.grad(loss, has_aux=True)(variables["params"])
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params} | new, opt_state, aux

  rng, opt_state = np.random.default_rng(0), tx.init(variables["params"])
  for n in range(600):
    b, _ = planted(rng, 48)
    variables, opt_state, aux = step(variables, opt_state, b, jax.random.key(n))
  assert aux["avc/accuracy"].value > 0.65  # one wrong sound of three fits the picture
  run = jax.jit(model.apply)
  for sounding in range(2):  # the same pictures; chance is 1 / 4, or 1 / 2 by sight
    b, quarter = planted(np.random.default_rng(1), 100, sounding)
    maps = np.array(run(variables, b)["location_logits"])
    y, x = np.divmod(maps.reshape(100, -1).argmax(1), maps.shape[2])
    found = 2 * (y * 2 // maps.shape[1]) + x * 2 // maps.shape[2]
    assert (found == quarter).mean() > 0.75
