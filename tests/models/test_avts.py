"""AVTS: counts, norms, thresholds, masks, and that it learns what is in step."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.models.test_l3 import count, shapes
from vlp_jax import batch as batch_lib
from vlp_jax import state as state_lib
from vlp_jax.models import avts
from vlp_jax.objectives import synchronisation


def make(variant="mu", **more):
  return avts.Model(**(avts.VARIANTS[variant] | more))


def init(model):
  return jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))


@pytest.mark.parametrize(
  ("variant", "video"), [("mc3", 11_490_240), ("r2plus1d", 31_300_125)]
)
def test_parameter_counts_of_the_published_video_networks(variant, video):
  made = shapes(make(variant))["params"]
  assert count(made["video_tower"]) == video
  convs = (1, 64, 128, 256, 256, 512, 512, 512, 512)
  audio = sum(9 * a * b + 2 * b for a, b in itertools.pairwise(convs))
  assert count(made["audio_tower"]) == audio + 512 * 513
  assert count(made["video_head"]) == count(made["audio_head"]) == 513 * 128


def batch(rows=3, samples=4_800):
  rng = np.random.default_rng(0)
  b = {
    "video_frames": rng.integers(0, 256, (rows, 4, 16, 16, 3)).astype(np.uint8),
    "video_mask": np.ones((rows, 4), bool),
    "audio_samples": rng.integers(-9000, 9000, (rows, samples)).astype(np.int16),
    "audio_mask": np.ones((rows, samples), bool),
  }
  b["video_mask"][1], b["audio_mask"][2] = False, False
  return b


def test_embeddings_norms_and_missing_streams():
  model = make()
  variables = init(model)
  out = jax.jit(model.apply)(variables, batch())
  for stream, missing in (("video", 1), ("audio", 2)):
    norms = np.linalg.norm(out[f"{stream}_embed"], axis=1)
    np.testing.assert_allclose(norms, np.arange(3) != missing, atol=1e-6)
  far = np.linalg.norm(out["video_embed"] - out["audio_embed"], axis=1)
  np.testing.assert_allclose(out["match_logits"], 0.495 - far, atol=1e-6)
  for norm, want in ((0.5, 0.5), (0.0, None)):
    other = make(embed_norm=norm)
    embed = other.apply(variables, batch(), method="encode_audio")["audio_embed"][0]
    if want:
      np.testing.assert_allclose(embed, want * out["audio_embed"][0], atol=1e-6)
    else:  # as the last layer gives them
      np.testing.assert_allclose(
        embed / jnp.linalg.norm(embed), out["audio_embed"][0], atol=1e-5
      )
      assert abs(float(jnp.linalg.norm(embed)) - 1) > 1e-3
  with pytest.raises(ValueError, match="'s3d'"):
    shapes(make(video="s3d"))


# ----- a square that blinks with its sound


def blinking(rng, rows, frames=24, size=8, hz=1_600):
  """The brightness of a square is the loudness of a tone: new at each frame."""
  loud = rng.integers(0, 2, (rows, frames)).astype(float)
  video = np.full((rows, frames, size, size, 3), 20.0)
  x, y = rng.integers(0, size - 4, 2)
  video[:, :, y : y + 4, x : x + 4] += 220 * loud[..., None, None, None]
  each = hz // 8
  tone = np.sin(2 * np.pi * 200 / hz * np.arange(frames * each))
  samples = 9_000 * np.repeat(0.02 + loud, each, axis=1) * tone
  return {
    "video_frames": video.astype(np.uint8),
    "video_mask": np.ones((rows, frames), bool),
    "audio_samples": np.clip(samples, -32768, 32767).astype(np.int16),
    "audio_mask": np.ones(samples.shape, bool),
    "example_id": np.arange(rows, dtype=np.int32),
  }


@pytest.mark.slow
def test_a_blinking_square_is_told_from_its_other_moments():
  model = make(
    video_args=dict(widths=(8,), depths=(1,)),
    audio_args=dict(widths=(8, 16), depths=(1, 1), fc_dim=32),
    embed_dim=16,
  )
  apply, variables, tx = state_lib.make_apply(model), init(model), optax.adam(3e-3)
  given = dict(clip_frames=6, audio_hz=1_600, min_gap_seconds=0.5)

  @jax.jit
  def step(variables, opt_state, b, key):
    rest = {"batch_stats": variables["batch_stats"]}

    def loss(params):
      out = synchronisation.avts(
        apply, rest | {"params": params}, b, key, hard_fraction=0.25, **given
      )
      return out[0]["avts"].value, out

    grads, (_, aux, new) = jax.grad(loss, has_aux=True)(variables["params"])
    updates, opt_state = tx.update(grads, opt_state)
    params = optax.apply_updates(variables["params"], updates)
    return {"params": params} | new, opt_state, aux

  rng, opt_state = np.random.default_rng(0), tx.init(variables["params"])
  for n in range(300):
    b = blinking(rng, 32)
    variables, opt_state, aux = step(variables, opt_state, b, jax.random.key(n))
  assert aux["avts/accuracy"].value > 0.9
  assert aux["avts/two_way"].value > 0.9
