"""AVTS: the golden value, kinds of negatives, their distances, and the curriculum."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import helpers
from tests.reference import pictures_and_sounds as reference
from vlp_jax import settings as settings_lib
from vlp_jax.objectives import synchronisation
from vlp_jax.tasks import schedule

HZ, FRAMES, SAMPLES, CLIP = 100, 16, 400, 4  # four seconds, 25 samples a frame
WINDOW = 100
HYPER = dict(clip_frames=CLIP, audio_hz=HZ, min_gap_seconds=0.5)


def unit(x):
  return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_golden_value():
  v = unit(np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]], np.float32))
  a = unit(np.array([[1, 0.5, 0], [0, 1, 1], [1, 0, 1]], np.float32))
  match = np.array([True, False, False])
  far = synchronisation.distance(jnp.array(v), jnp.array(a))
  got = synchronisation.contrastive(far, match).mean()
  np.testing.assert_allclose(got, 0.136402, atol=1e-6)
  np.testing.assert_allclose(got, reference.contrastive(v, a, match, 0.99), rtol=1e-6)


def test_the_gradient_is_finite_where_a_pair_is_one_point():
  def loss(v, match):
    far = synchronisation.distance(v, jnp.ones((1, 3)))
    return synchronisation.contrastive(far, jnp.array([match])).sum()

  for match in (True, False):
    assert (jax.grad(loss)(jnp.ones((1, 3)), match) == 0).all()
    assert np.isfinite(jax.grad(loss)(jnp.full((1, 3), 1.0001), match)).all()


def batch(rows=8, seconds=4.0, groups=None):
  """Frame k of row i has the value 100 i + k, sample s the value i + s / 1024."""
  at, real = np.arange(rows), round(seconds * HZ)
  frames = np.zeros((rows, FRAMES, 1, 1, 3), np.float32)
  frames += (100 * at[:, None] + np.arange(FRAMES))[..., None, None, None]
  return {
    "video_frames": jnp.array(frames),
    "video_mask": jnp.array(np.tile(np.arange(FRAMES) < real / 25, (rows, 1))),
    "audio_samples": jnp.array(at[:, None] + np.arange(SAMPLES) / 1024, jnp.float32),
    "audio_mask": jnp.array(np.tile(np.arange(SAMPLES) < real, (rows, 1))),
    "example_id": jnp.array(at, jnp.int32),
    "group_id": jnp.array(at if groups is None else groups, jnp.int32),
  }


def run(b, seed=0, **hyper):
  """(frame, row of sounds, first samples, terms, aux); sounds are right, then wrong."""
  seen = {}

  def apply(variables, rows, *, rng=None, train=False, method=None):
    assert train
    stream = method.removeprefix("encode_")
    if stream == "video":
      assert rows["video_frames"].shape[1] == CLIP
      seen[stream] = np.array(rows["video_frames"][:, 0, 0, 0, 0])
    else:
      assert rows["audio_samples"].shape[1] == WINDOW
      seen[stream] = np.array(rows["audio_samples"][:, 0])
    x = jnp.array(seen[stream])
    embed = jnp.stack([jnp.sin(x), jnp.cos(x)], axis=1) / 2
    return {f"{stream}_embed": embed}, {f"of_{stream}": 1}

  terms, aux, new = synchronisation.avts(
    apply, {}, b, jax.random.key(seed), **HYPER | hyper
  )
  assert set(new) == {"of_video", "of_audio"}
  row = np.floor(seen["audio"]).astype(int)
  first = np.round((seen["audio"] - row) * 1024).astype(int)
  frame = np.round(seen["video"] % 100).astype(int)
  return frame, row, first, terms["avts"], aux


def test_easy_negatives_cost_no_further_pass():
  b = batch()
  frame, row, first, term, aux = run(b)
  assert len(row) == 8  # each sound once
  np.testing.assert_array_equal(row, np.arange(8))
  np.testing.assert_array_equal(first, 25 * frame)
  assert term.weight == 16
  assert aux["avts/hard"].value == aux["avts/super_hard"].value == 0


def test_hard_negatives_keep_the_gap():
  for seed in range(4):
    frame, row, first, term, aux = run(batch(), seed, hard_fraction=1.0)
    np.testing.assert_array_equal(row, np.tile(np.arange(8), 2))
    np.testing.assert_array_equal(first[:8], 25 * frame)
    far = np.abs(first[8:] - first[:8])
    assert (far >= WINDOW + 50).all()
    assert (first[8:] <= SAMPLES - WINDOW).all()
    assert aux["avts/hard"].value == 1
    assert term.weight == 16


def test_super_hard_negatives_overlap():
  for seed in range(4):
    hyper = dict(super_hard_fraction=1.0, min_shift_seconds=0.1)
    _, row, first, _, aux = run(batch(), seed, **hyper)
    np.testing.assert_array_equal(row[8:], np.arange(8))
    far = np.abs(first[8:] - first[:8])
    assert ((far >= 10) & (far < WINDOW)).all()
    assert aux["avts/super_hard"].value == 1


def test_shares_of_the_kinds():
  hyper = dict(hard_fraction=0.25, super_hard_fraction=0.25)
  frame, row, first, _, aux = run(batch(400), **hyper)
  own = row[400:] == np.arange(400)
  far = np.abs(first[400:] - first[:400])
  hard, close = own & (far >= WINDOW + 50), own & (far < WINDOW)
  assert (hard | close | ~own).all()
  assert aux["avts/hard"].total == hard.sum()
  assert aux["avts/super_hard"].total == close.sum()
  for share in (hard, close):
    assert 0.18 < share.mean() < 0.32
  # Easy ones are what is right in their own row.
  np.testing.assert_array_equal(first[400:][~own], first[row[400:][~own]])
  assert set(frame) == set(range(13))


def test_a_clip_without_room_takes_an_easy_one():
  b = batch(seconds=2.0)
  _, row, first, term, aux = run(b, hard_fraction=1.0)
  assert (row[8:] != np.arange(8)).all()
  assert (first <= 100).all()
  assert aux["avts/hard"].value == 0
  assert term.weight == 16
  # Alone and without room there is no pair; alone with room there are hard ones.
  alone = dict(groups=np.zeros(8))
  assert run(batch(seconds=2.0, **alone), hard_fraction=1.0)[3].weight == 0
  assert run(batch(**alone), hard_fraction=1.0)[3].weight == 16
  assert run(batch(**alone))[3].weight == 0
  # Less than a clip is no row at all.
  assert run(batch(seconds=0.5))[3].weight == 0


def test_the_loss_by_hand():
  b = batch() | {"example_mask": jnp.arange(8) != 3}
  frame, row, first, term, aux = run(b, hard_fraction=0.5)
  turn = lambda x: np.stack([np.sin(x), np.cos(x)], 1) / 2
  video = turn(100 * np.arange(8) + frame)
  audio = turn(row + first / 1024)
  real = np.arange(8) != 3
  keep = np.concatenate([real, real])
  match = np.arange(16) < 8
  want = reference.contrastive(
    np.concatenate([video, video])[keep], audio[keep], match[keep], 0.99
  )
  np.testing.assert_allclose(term.value, want, rtol=1e-4)
  assert term.weight == 14
  far = np.linalg.norm(np.concatenate([video, video]) - audio, axis=1)
  assert aux["avts/two_way"].total == (far[:8] < far[8:])[real].sum()
  assert aux["avts/accuracy"].total == ((far < 0.495) == match)[keep].sum()


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="needs 250 samples"):
    run(
      {k: x[:, :200] if k[:5] == "audio" else x for k, x in batch().items()}
      | {"video_mask": jnp.ones((8, 8), bool)},
      hard_fraction=0.5,
    )
  with pytest.raises(ValueError, match="clip_frames=40"):
    run(batch(), clip_frames=40)
  with pytest.raises(ValueError, match="shares of kinds"):
    run(batch(), hard_fraction=0.8, super_hard_fraction=0.4)


def config(arg):
  path = helpers.ROOT / "configs/audio_visual/avts.py"
  spec = importlib.util.spec_from_file_location("config", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return settings_lib.load(module.get_config(arg))


def test_the_curriculum_changes_at_its_step_and_not_before():
  s = config("hard_start_epoch=2,hard_fraction=0.4")
  begin = 2 * 898
  spans = s.spans()
  weights = {k: t["weight"] for k, t in s.tasks.items()}
  at = lambda n: schedule.pick(s.seed, n, schedule.open_at(weights, spans, n))
  assert {at(n) for n in range(begin)} == {"easy"}
  assert "hard" not in schedule.open_at(weights, spans, begin - 1)
  assert "hard" in schedule.open_at(weights, spans, begin)
  later = [at(n) for n in range(begin, begin + 2_000)]
  assert 0.36 < later.count("hard") / len(later) < 0.44
  alone = config("hard_start_epoch=1,hard_fraction=1.0")
  weights = {k: t["weight"] for k, t in alone.tasks.items()}
  at = lambda n: schedule.pick(0, n, schedule.open_at(weights, alone.spans(), n))
  assert (at(5), at(898)) == ("easy", "hard")
  # What a step of each makes.
  inject = {"vocab": None, "vocab_size": 8}
  easy, hard = (s.objective(k, inject).keywords for k in ("easy", "hard"))
  assert hard["hard_fraction"] == 1.0
  assert hard["min_gap_seconds"] == 0.5
  assert "hard_fraction" not in easy
