"""The captioner: sizes, what it sees, and that it writes what it has learned."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vlp_jax import batch as batch_lib
from vlp_jax import resolve, state
from vlp_jax.errors import UserError
from vlp_jax.evaluators import caption as evaluator_lib
from vlp_jax.models import captioner
from vlp_jax.objectives import caption as objective
from vlp_jax.vocab import Vocab

VOCAB = Vocab(12, 0, 3, 1, 2, 4, (0, 1, 2, 3, 4), (5, 12))
BERT = Vocab(30_522, 0, 100, 101, 102, 103, (0, 100, 101, 102, 103), (999, 30_522))
KEY, B, T, L = jax.random.key(0), 2, 3, 7
TEXTS = [[1, 7, 5, 5, 9, 6, 2], [1, 8, 11, 5, 2, 0, 0]]


def build(vocab=VOCAB, variant="mu", **fields):
  given = dict(name="captioner", variant=variant) | fields
  return resolve.model(given, inject={"vocab": vocab})


def shapes(model):
  init = lambda: model.init(
    {"params": KEY, "dropout": KEY}, batch_lib.zeros(model.spec())
  )
  return nn.unbox(jax.eval_shape(init))


def count(tree):
  return sum(x.size for x in jax.tree.leaves(tree))


def rows():
  ids = np.array(TEXTS, np.int32)
  rng = np.random.default_rng(0)
  return {
    "clips_features": jnp.asarray(rng.normal(size=(B, T, 16)), jnp.float32),
    "clips_mask": jnp.array([[True, True, True], [True, True, False]]),
    "text_ids": jnp.asarray(ids),
    "text_mask": jnp.asarray(ids > 0),
    "example_id": jnp.arange(B, dtype=jnp.int32),
  }


@functools.cache
def made(**fields):
  """(model, variables, jitted forward, jitted decode); weights that are not small."""
  model = build(**fields)
  init = lambda: model.init(
    {"params": KEY, "dropout": KEY}, batch_lib.zeros(model.spec())
  )
  variables = jax.tree.map(
    lambda p: 5 * p if p.ndim > 1 else p, nn.unbox(jax.jit(init)())
  )
  apply = state.make_apply(model)
  run = lambda method: jax.jit(lambda v, b: apply(v, b, method=method)[0])
  return model, variables, run(None), run("decode")


def test_published_sizes():
  params = shapes(build(BERT, "univl"))["params"]
  assert count(params["decoder"]) == 52_813_626
  # The published video encoder without its pooler, and the norm of its input.
  assert count(params["clips"]) == 44_299_776 - (768 * 768 + 768) + 2_048
  small = shapes(build(BERT, "videobert"))["params"]
  assert small["decoder"]["embed"]["words"].shape == (30_522, 128)
  assert small["clips"]["project"]["kernel"].shape == (2_048, 128)
  assert "types" not in small["decoder"]["embed"]


@pytest.mark.parametrize(
  ("encoder", "variant"), [*((e, "mu") for e in captioner.ENCODERS), ("s3d", "small")]
)
def test_every_encoder_by_shapes(encoder, variant):
  model = build(variant=variant, encoder=encoder)
  variables = shapes(model)
  batch = batch_lib.zeros(model.spec())
  out = jax.eval_shape(model.apply, variables, batch)
  assert out["caption_logits"].shape == (2, 2, VOCAB.size)
  assert out["video"].shape[::2] == (2, model.width)
  assert out["video_mask"].shape == out["video"].shape[:2]
  write = functools.partial(model.apply, method="decode")
  out = jax.eval_shape(write, variables, batch)
  assert out["caption_ids"].shape == (2, model.max_length)
  assert out["caption_mask"].dtype == bool
  assert out["caption_scores"].shape == (2,)


def test_padding_changes_nothing_and_later_words_are_not_seen():
  _, variables, run, _ = made()
  batch = rows()
  out = run(variables, batch)["caption_logits"]
  wide = batch | {
    k: jnp.pad(batch[k], [(0, 0), (0, 2)] + [(0, 0)] * (batch[k].ndim - 2))
    for k in ("clips_features", "clips_mask", "text_ids", "text_mask")
  }
  more = run(variables, wide)["caption_logits"]
  real = np.asarray(batch["text_mask"][:, 1:])
  np.testing.assert_allclose(np.asarray(more)[:, : L - 1][real], out[real], atol=1e-5)
  other = batch | {"text_ids": batch["text_ids"].at[:, 3:].set(10)}
  np.testing.assert_array_equal(
    run(variables, other)["caption_logits"][:, :3], out[:, :3]
  )
  moved = batch | {"clips_features": batch["clips_features"].at[0].multiply(-1.0)}
  moved = run(variables, moved)["caption_logits"]
  assert np.abs(moved[0] - out[0]).max() > 1e-3
  np.testing.assert_array_equal(moved[1], out[1])


def test_scores_of_what_is_written_are_those_of_teacher_forcing():
  _, variables, run, decode = made()
  batch = rows() | {"example_mask": jnp.array([True, True])}
  wrote = decode(variables, batch)
  ids, mask = np.asarray(wrote["caption_ids"]), np.asarray(wrote["caption_mask"])
  assert mask.any(axis=1).all()
  assert not np.isin(ids[mask], (0, 1, 3, 4)).any()
  first = np.full((B, 1), VOCAB.cls_id, np.int32)
  text = {
    "text_ids": jnp.asarray(np.concatenate([first, ids], 1)),
    "text_mask": jnp.asarray(np.concatenate([first > 0, mask], 1)),
  }
  logits = run(variables, batch | text)["caption_logits"]
  logp = np.take_along_axis(
    np.asarray(jax.nn.log_softmax(logits)), ids[..., None], axis=2
  )[..., 0]
  want = np.where(mask, logp, 0).sum(axis=1)
  np.testing.assert_allclose(wrote["caption_scores"], want, atol=1e-4)
  empty = batch | {
    "example_mask": jnp.array([True, False]),
    "clips_mask": batch["clips_mask"].at[0].set(False),
  }
  wrote = decode(variables, empty)  # no step to look at, and a row of padding
  assert np.isfinite(wrote["caption_scores"]).all()
  assert wrote["caption_mask"].any(axis=1).tolist() == [True, False]
  assert run(variables, empty)["video_features"][0].tolist() == [0.0] * 32


class Words:
  spec = VOCAB

  def decode(self, ids):
    return " ".join(f"w{i}" for i in ids)


def test_two_captions_are_learned_by_heart_and_written():
  model, variables, _, decode = made()
  apply, batch = state.make_apply(model), rows()
  tx = optax.adam(5e-3)

  def loss(params, key):
    fn = functools.partial(objective.caption, vocab=VOCAB)
    return fn(apply, {"params": params}, batch, key)[0]["caption"].value

  @jax.jit
  def train(params):
    def body(carry, key):
      params, opt = carry
      value, grads = jax.value_and_grad(loss)(params, key)
      updates, opt = tx.update(grads, opt, params)
      return (optax.apply_updates(params, updates), opt), value

    keys = jax.random.split(KEY, 100)
    (params, _), values = jax.lax.scan(body, (params, tx.init(params)), keys)
    return params, values

  params, values = train(variables["params"])
  assert values[-1] < 0.2 < 1.0 < values[0]
  trained = {"params": params}
  out = decode(trained, batch | {"example_mask": jnp.ones(B, bool)})
  for i, text in enumerate(TEXTS):
    real = [v for v in text[1:] if v]
    assert out["caption_ids"][i][out["caption_mask"][i]].tolist() == real
  scores = evaluator_lib.Evaluator(apply, [batch], tokeniser=Words(), stream="text")
  found = dict(scores.run(trained))
  assert found["bleu4"].value > 0.99
  assert found["rouge_l"].value == pytest.approx(1.0)
  assert [m["caption"] for m in scores.predictions_made] == [
    "w7 w5 w5 w9 w6",
    "w8 w11 w5",
  ]


def test_steps_of_frames_are_real_where_one_of_their_frames_is():
  model = build(encoder="s3d")
  batch = batch_lib.zeros(model.spec())
  some = jnp.arange(8) < jnp.array([[8], [3]])
  out = jax.eval_shape(lambda: model.init(KEY, batch))
  steps = jax.jit(
    lambda v: model.apply(v, batch | {"video_mask": some}, method="encode_video")
  )(jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), nn.unbox(out)))
  assert steps["video_mask"].tolist() == [[True] * 4, [True, True, False, False]]
  assert np.isfinite(steps["video_features"]).all()


def test_wrong_models_and_batches_are_refused():
  batch = rows()
  with pytest.raises(UserError, match="'tokens'"):
    build(encoder="regions")
  model, variables, *_ = made()
  with pytest.raises(ValueError, match="feature_dim"):
    model.apply(variables, batch | {"clips_features": jnp.ones((B, T, 5))})
  with pytest.raises(KeyError, match="clips_features"):
    model.apply(variables, {"clips_tokens": jnp.ones((B, T), jnp.int32)})
  with pytest.raises(ValueError, match="wordpiece"):
    build(Vocab(12)).apply(variables, batch, method="decode")
  with pytest.raises(ValueError, match="train=False"):
    model.apply(variables, batch, train=True, method="decode")
  with pytest.raises(ValueError, match="positions"):
    build(max_length=64).apply(variables, batch, method="decode")
