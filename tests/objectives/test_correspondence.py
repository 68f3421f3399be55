"""Pairs of pictures and sounds: who meets whom, where sound is cut, losses, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from tests.reference import pictures_and_sounds as reference
from vlp_jax import errors, sharding
from vlp_jax import step as step_lib
from vlp_jax.objectives import correspondence, pairing

HZ, FRAMES, SAMPLES = 100, 4, 200  # two seconds; a frame stands every 50 samples
HYPER = dict(audio_hz=HZ, window_s=1.0, volume=0.0)


def batch(rows=9, groups=None):
  """Frame k of row i has the value 10 i + k, sample s the value i + s / 1024.

  Row 2 has no sound, row 5 is padding; row 7 has a second of sound and two frames.
  """
  at = np.arange(rows)
  frames = np.zeros((rows, FRAMES, 1, 1, 3), np.float32)
  frames += (10 * at[:, None] + np.arange(FRAMES))[..., None, None, None]
  video, audio = np.ones((rows, FRAMES), bool), np.ones((rows, SAMPLES), bool)
  audio[2], audio[7, 100:], video[7, 2:] = False, False, False
  samples = at[:, None] + np.arange(SAMPLES) / 1024
  return {
    "video_frames": jnp.array(frames),
    "video_mask": jnp.array(video),
    "audio_samples": jnp.array(samples, jnp.float32),
    "audio_mask": jnp.array(audio),
    "example_id": jnp.array(at + 50, jnp.int32),
    "group_id": jnp.array(at if groups is None else groups, jnp.int32),
    "example_mask": jnp.array(at != 5),
  }


def apply(variables, batch, *, rng=None, train=False, method=None):
  """Embeddings that tell their source; the score is a product with a parameter."""
  if method == "encode_video":
    assert batch["video_frames"].shape[1:] == (1, 1, 1, 3)
    return {"video_embed": batch["video_frames"][:, 0, 0, 0, :1]}, {"stats": 1.0}
  if method == "encode_audio":
    assert batch["audio_samples"].shape[1] == 100
    return {"audio_embed": batch["audio_samples"][:, :1]}, {}
  assert method == "score"
  assert not train
  v, a = batch["video_embed"][:, 0], batch["audio_embed"][:, 0]
  logits = variables["params"] * jnp.sin(v + 3 * a)
  return {"match_logits": logits}, {}


PARAMS = {"params": jnp.array(1.5)}


def pairs(b, seed=0, **hyper):
  """(row of picture, frame, row of sound, first sample) of every pair."""
  seen = []

  def spy(variables, rows, *, rng=None, train=False, method=None):
    if method == "score":
      seen.append((np.array(rows["video_embed"]), np.array(rows["audio_embed"])))
    return apply(variables, rows, rng=rng, train=train, method=method)

  terms, _, _ = correspondence.avc(
    spy, PARAMS, b, jax.random.key(seed), **HYPER | hyper
  )
  ((video, audio),) = seen
  row, frame = np.divmod(np.round(video[:, 0]).astype(int), 10)
  first = np.round((audio[:, 0] - np.floor(audio[:, 0])) * 1024).astype(int)
  return row, frame, np.floor(audio[:, 0]).astype(int), first, terms["avc"]


REAL = np.array([0, 1, 3, 4, 6, 7, 8])


@pytest.mark.parametrize("period_s", [None, 0.25, 0.0])
def test_who_meets_whom(period_s):
  b, frames, places = batch(), [], []
  for seed in range(8):
    row, frame, sound, first, term = pairs(b, seed, period_s=period_s)
    right, wrong = slice(0, 9), slice(9, 18)
    np.testing.assert_array_equal(row, np.tile(np.arange(9), 2))
    np.testing.assert_array_equal(sound[right], np.arange(9))
    assert (sound[wrong][REAL] != REAL).all()
    # Each sound is once right and once wrong.
    assert sorted(sound[wrong][REAL]) == REAL.tolist()
    assert term.weight == 2 * len(REAL)
    # The frame lies in the middle of its second, as far as there is sound.
    last = np.where(np.arange(9) == 7, 0, 100)
    want = np.clip(50 * frame[right] - 50, 0, last)
    np.testing.assert_array_equal(first[right][REAL], want[REAL])
    if period_s is None:
      np.testing.assert_array_equal(first[wrong][REAL], want[sound[wrong][REAL]])
    places += first[wrong][REAL].tolist()
    frames += frame[right][REAL].tolist()
    assert (frame[right][7:8] < 2).all()
    assert (first[wrong][REAL][sound[wrong][REAL] == 7] == 0).all()
  assert set(frames) == set(range(4))
  if period_s == 0.25:
    assert set(places) == {0, 25, 50, 75, 100}
  if period_s == 0.0:
    assert len(set(places)) > 20


def test_draws_follow_the_example_not_its_place():
  b = batch()
  order = np.array([3, 8, 0, 1, 2, 4, 5, 6, 7])
  _, frame, _, first, _ = pairs(b)
  moved, again, _, places, _ = pairs({k: x[order] for k, x in b.items()})
  np.testing.assert_array_equal(moved[:9], order)
  np.testing.assert_array_equal(again[:9], frame[order])
  np.testing.assert_array_equal(places[:9], first[order])


def test_loss_and_accuracies_by_hand():
  b = batch()
  for two in (False, True):

    def both(variables, rows, *, rng=None, train=False, method=None, two=two):
      out, new = apply(variables, rows, rng=rng, train=train, method=method)
      if two and method == "score":
        x = out["match_logits"]
        out = {"match_logits": jnp.stack([0.3 - x / 2, 0.3 + x / 2], -1)}
      return out, new

    terms, aux, mutable = correspondence.avc(
      both, PARAMS, b, jax.random.key(0), **HYPER
    )
    row, frame, sound, first, _ = pairs(b)
    logits = 1.5 * np.sin(10 * row + frame + 3 * (sound + first / 1024))
    real = np.isin(row, REAL)
    match = np.arange(18) < 9
    want = sum(reference.xent(logits[i], match[i]) for i in np.flatnonzero(real))
    np.testing.assert_allclose(terms["avc"].total, want, rtol=1e-4)
    yes = logits > 0
    for name, hits, of in (
      ("accuracy", yes == match, real),
      ("right", yes, real & match),
      ("wrong", ~yes, real & ~match),
    ):
      assert aux[f"avc/{name}"].total == hits[of].sum()
      assert aux[f"avc/{name}"].weight == of.sum()
    assert mutable == {"stats": 1.0}


def test_what_is_not_there_changes_nothing():
  grad = jax.grad(
    lambda p, b: (
      correspondence.avc(apply, {"params": p}, b, jax.random.key(0), **HYPER)[0][
        "avc"
      ].value
    )
  )
  b = batch()
  other = {k: np.array(x) for k, x in b.items()}
  other["audio_samples"][2], other["video_frames"][5] = 77.0, 88.0
  other["audio_samples"][7, 100:] = 99.0
  want = grad(jnp.array(1.5), b)
  assert want != 0
  np.testing.assert_array_equal(grad(jnp.array(1.5), other), want)
  alone = b | {"group_id": jnp.zeros(9, jnp.int32)}  # nobody to pair with
  terms, _, _ = correspondence.avc(apply, PARAMS, alone, jax.random.key(0), **HYPER)
  assert terms["avc"].weight == terms["avc"].total == 0
  assert grad(jnp.array(1.5), alone) == 0


def test_loudness_changes_row_by_row():
  heard = []

  def spy(variables, rows, **more):
    if more["method"] == "encode_audio":
      heard.append(np.array(rows["audio_samples"]))
    return apply(variables, rows, **more)

  b = batch()
  loud = b | {"audio_samples": jnp.full((9, SAMPLES), 16_384, jnp.int16)}
  correspondence.avc(spy, PARAMS, loud, jax.random.key(0), **HYPER | {"volume": 0.1})
  gain = heard[0] / 0.5
  assert (np.ptp(gain, axis=1) < 1e-6).all()
  assert 0.9 <= gain.min() < 0.97
  assert 1.03 < gain.max() <= 1.1


def test_the_loss_is_the_same_on_any_number_of_devices():
  b = {k: x[np.r_[0:8]] for k, x in batch().items()}
  step = jax.jit(
    lambda b: correspondence.avc(
      apply, PARAMS, b, jax.random.key(3), **HYPER, period_s=0.1
    )[0]["avc"]
  )
  want = step(b)
  mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
  split = jax.device_put(b, NamedSharding(mesh, PartitionSpec("data")))
  np.testing.assert_allclose(step(split), want, rtol=1e-6)


def test_mistakes_are_named():
  with pytest.raises(ValueError, match="300 samples at 100 Hz; the batch has 200"):
    pairs(batch(), window_s=3.0)
  with pytest.raises(errors.UserError, match="micro=2"):
    step_lib.build(
      correspondence.avc,
      apply=apply,
      tx=None,
      mesh=sharding.mesh(devices=jax.devices()[:1]),
      shardings=None,
      micro=2,
    )


# ----- partners


@pytest.mark.parametrize("seed", range(6))
def test_partners_are_of_other_groups_and_each_row_is_taken_once(seed):
  rng = np.random.default_rng(seed)
  n = int(rng.integers(4, 24))
  group = rng.integers(0, n // 2 + 1, n) * 1_000
  where = rng.uniform(size=n) < 0.8
  ids = np.arange(n)
  run = jax.jit(pairing.partners)
  for key in range(4):
    partner, found = map(np.array, run(jax.random.key(key), group, ids, where))
    most = max((np.sum(group[where] == g) for g in group[where]), default=0)
    if 2 * most <= where.sum():
      np.testing.assert_array_equal(found, where)
      assert sorted(partner[where]) == np.flatnonzero(where).tolist()
    assert (group[partner[found]] != group[found]).all()
    assert where[partner[found]].all()
    assert not found[~where].any()


def test_all_partners_come_up():
  ids, where = jnp.arange(5), jnp.ones(5, bool)
  run = jax.jit(lambda key: pairing.partners(key, ids, ids, where)[0])
  met = np.stack([run(jax.random.key(k)) for k in range(60)])
  for i in range(5):
    assert set(met[:, i]) == set(range(5)) - {i}


def test_shifts_keep_their_distance_and_reach_every_place():
  first, last = np.array([0, 10, 40, 3]), np.array([40, 40, 40, 5])
  u = np.random.default_rng(0).uniform(size=(4_000, 4)).astype(np.float32)
  run = jax.jit(
    jax.vmap(lambda u: pairing.shifted(u, first, least=8, most=31, last=last))
  )
  place, exists = map(np.array, run(u))
  for i in range(4):
    want = [p for p in range(last[i] + 1) if 8 <= abs(p - first[i]) <= 31]
    assert exists[:, i].all() == bool(want)
    assert set(place[:, i]) == set(want or [first[i]])
    if want:
      count = np.bincount(place[:, i])[want]
      assert count.min() > 0.5 * 4_000 / len(want)
