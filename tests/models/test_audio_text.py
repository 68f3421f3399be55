"""Sound and words: unit norm, rows without a stream, EgoNCE over views, retrieval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax import batch as batch_lib
from vlp_jax import resolve
from vlp_jax import state as state_lib
from vlp_jax.errors import UserError
from vlp_jax.evaluators import retrieval
from vlp_jax.objectives import contrastive


def make(**more):
  given = dict(name="audio_text", variant="mu") | more
  return resolve.model(given, inject={"vocab_size": 11})


@pytest.fixture(scope="module")
def made():
  model = make()
  variables = model.init(jax.random.key(0), batch_lib.zeros(model.spec()))
  return state_lib.make_apply(model), variables


def batch(rows=6, words=3, seed=0):
  rng = np.random.default_rng(seed)
  label = np.arange(rows) % words
  return {
    "audio_samples": rng.integers(-9_000, 9_000, (rows, 6_400)).astype(np.int16),
    "audio_mask": np.ones((rows, 6_400), bool),
    "text_ids": np.stack([label + 1, np.zeros_like(label)], 1).astype(np.int32),
    "text_mask": np.tile([True, False], (rows, 1)),
    "label": np.eye(words, dtype=np.float32)[label],
    "example_id": np.arange(rows, dtype=np.int32),
    "example_mask": np.ones(rows, bool),
  }


def test_embeddings_are_of_norm_one_or_nothing(made):
  apply, variables = made
  rows = batch()
  rows["audio_mask"][1], rows["text_mask"][2] = False, False
  out, mutable = apply(variables, rows, rng=jax.random.key(0), train=True)
  audio, text = (np.linalg.norm(out[f"{k}_embed"], axis=1) for k in ("audio", "text"))
  np.testing.assert_allclose(audio, np.arange(6) != 1, atol=1e-5)
  np.testing.assert_allclose(text, np.arange(6) != 2, atol=1e-5)
  assert out["audio_features"].shape == (6, 16)
  less = {k: np.delete(x, 1, 0) for k, x in rows.items()}
  _, others = apply(variables, less, rng=jax.random.key(0), train=True)
  same = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
  jax.tree.map(same, mutable, others)  # silence is in no statistics
  assert set(apply(variables, {k: rows[k] for k in ("text_ids", "text_mask")})[0]) == {
    "text_embed"
  }
  with pytest.raises(UserError, match="one of 'audio_resnet'"):
    make(tower="audio_resnte")


def test_recordings_of_a_word_are_its_positives(made):
  apply, variables = made
  rows, key = batch(), jax.random.key(1)
  given = dict(tags=("label",), streams=("audio", "text"), tau=0.1)
  terms, aux, _ = contrastive.ego(apply, variables, rows, key, **given)
  out, _ = apply(variables, rows, rng=key, train=True)  # no dropout in this variant
  s = np.asarray(out["audio_embed"] @ out["text_embed"].T, np.float64) / 0.1
  own = rows["label"] @ rows["label"].T > 0
  lse = lambda x, axis: np.log(np.exp(x).sum(axis))
  inside = np.where(own, s, -np.inf)
  want = sum(lse(s, axis) - lse(inside, axis) for axis in (0, 1)).sum()
  assert float(terms["ego"].total) == pytest.approx(want, rel=1e-4)
  views = dict(gain=dict(db=(3.0, 3.0)))
  seen, _, _ = contrastive.ego(apply, variables, rows, key, views=views, **given)
  # A log-mel spectrogram that is normalised does not hear how loud it is.
  assert float(seen["ego"].total) == pytest.approx(want, rel=0.02)
  faster, _, _ = contrastive.ego(
    apply, variables, rows, key, views=dict(speed=dict(factors=(1.4, 1.5))), **given
  )
  assert abs(float(faster["ego"].total) - want) > 1e-3
  assert aux["ego/accuracy"].weight == 6


def test_equal_texts_are_one_query():
  ids = np.array([[1, 0], [2, 0], [1, 0], [2, 0], [3, 0]], np.int32)
  angle = np.array([0.0, 2.0, 0.3, 1.8, 4.0])
  point = lambda a: np.stack([np.cos(a), np.sin(a)], 1).astype(np.float32)
  texts = {
    "text_embed": point(np.array([0.0, 2.0, 0.0, 2.0, 4.0])),
    "text_ids": ids,
    "example_id": np.arange(5),
    "relevance": np.arange(5),
  }
  angle[3] = 3.9  # a recording of the second word that sounds like the third
  items = {"video_embed": point(angle), "example_id": np.arange(5)}
  given = lambda variables, batch, **_: (batch, {})
  tensors = lambda x: {k: jnp.asarray(v) for k, v in x.items()}
  evaluator = retrieval.Evaluator(
    given,
    [tensors(texts)],
    [tensors(items)],
    distinct=True,
    ks=(1,),
    methods=(None,) * 2,
  )
  out = dict(evaluator.run({}))
  assert out["v2t_recall@1"].value == pytest.approx(4 / 5)
  assert out["v2t_recall@1"].chance == pytest.approx(1 / 3)
  assert out["t2v_recall@1"].value == 1.0
  assert out["t2v_recall@1"].n == 3
