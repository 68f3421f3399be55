"""Packed rows give the logits, losses and gradients of rows of one example."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.reference import packing as reference
from vlp_jax import batch as batch_lib
from vlp_jax import errors, settings, sharding, step
from vlp_jax import state as state_lib
from vlp_jax.models import uniter
from vlp_jax.objectives import contrastive, masked, match, packing
from vlp_jax.vocab import Vocab

VOCAB = Vocab(40, 0, 4, 1, 2, 3, (0, 1, 2, 3, 4), (5, 40))
WIDTHS = {"text": 24, "regions": 20}
# Rows of several examples, of one, and of none; example 5 has no region, 7 no word.
TABLE = np.array([[3, 0, 5, 7], [2, 6, -1, -1], [8, -1, -1, -1], [1, 4, 9, -1]])
MU = uniter.MU | {"dropout": 0.0, "depth": 1}
KEY = jax.random.key(7)


def singles():
  rng, out = np.random.default_rng(0), {}
  for k in range(10):
    words, count = rng.integers(1, 6), 0 if k == 5 else rng.integers(1, 6)
    inner = [] if k == 7 else rng.integers(5, 40, words)
    probs = rng.random((count, 11)) + 0.01
    out[k] = {
      "text_ids": np.array([2, *inner, 3], np.int32),
      "regions_features": rng.normal(size=(count, 16)).astype(np.float32),
      "regions_boxes": rng.random((count, 7)).astype(np.float32),
      "regions_probs": (probs / probs.sum(-1, keepdims=True)).astype(np.float32),
      "regions_objects": rng.integers(0, 11, count).astype(np.int32),
      "example_id": np.int32(100 + k),
      "match": np.int32(k % 2),
    }
  return out


def unpacked(given):
  """One example a row, in another order and padded; the last row is none."""
  rows, out = len(given) + 1, {}
  for key, first in given[0].items():
    stream = key.split("_")[0]
    if stream not in WIDTHS:
      column = [one[key] for one in given.values()]
      out[key] = np.array([*column, 0], np.int32)
      continue
    out[key] = np.zeros((rows, 9, *first.shape[1:]), first.dtype)
    mask = out.setdefault(f"{stream}_mask", np.zeros((rows, 9), bool))
    for row, one in enumerate(given.values()):
      out[key][row, : len(one[key])] = one[key]
      mask[row, : len(one[key])] = True
  out["example_mask"] = np.arange(rows) < len(given)
  return {k: jnp.asarray(x) for k, x in out.items()}


@pytest.fixture(scope="module")
def both():
  """(variables, apply, plain batch, packed batch)."""
  model = uniter.Model(vocab_size=40, **MU)
  make = lambda key: nn.unbox(model.init(key, batch_lib.zeros(model.spec())))
  given = singles()
  packed = reference.pack(given, TABLE, length=32, widths=WIDTHS, pad_id=0)
  packed = {k: jnp.asarray(x) for k, x in packed.items()}
  batch_lib.check(packed)
  apply = state_lib.make_apply(model)
  return jax.jit(make)(jax.random.key(0)), apply, unpacked(given), packed


def close(got, want):
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


OBJECTIVES = {
  "mlm": functools.partial(masked.mlm, vocab=VOCAB),
  "mrfr": masked.mrfr,
  "mrc": masked.mrc,
  "mrc_kl": functools.partial(masked.mrc_kl, reduction="sum_over_classes"),
  "itm": functools.partial(match.itm, negatives="given", wra_coef=0.0),
}


def test_losses_metrics_and_gradients_are_equal(both):
  variables, apply, plain, packed = both

  def losses(params, batch):
    found = {}
    for name, objective in OBJECTIVES.items():
      found[name] = objective(apply, {"params": params}, batch, KEY)[:2]
    return sum(t.value for terms, _ in found.values() for t in terms.values()), found

  run = jax.jit(jax.grad(losses, has_aux=True))
  grads, one = run(variables["params"], plain)
  other, many = run(variables["params"], packed)
  assert jax.tree.structure(one) == jax.tree.structure(many)
  jax.tree.map(close, many, one)
  jax.tree.map(close, other, grads)
  assert all(t.weight > 0 for terms, _ in one.values() for t in terms.values())


def test_words_beyond_the_maximum_are_counted_alike(both):
  _, _, plain, packed = both

  def apply(variables, batch, **_):
    words = jnp.take_along_axis(batch["text_ids"], batch["mlm_positions"], axis=1)
    return {"mlm_logits": jnp.sin(words[..., None] * jnp.arange(1.0, 41))}, {}

  few = functools.partial(masked.mlm, vocab=VOCAB, rate=0.8, max_masked=1)
  run = jax.jit(lambda batch: few(apply, {}, batch, KEY)[:2])
  one, many = run(plain), run(packed)
  jax.tree.map(close, many, one)
  assert one[1]["mlm/overflow"].total > 0


def test_logits_and_states_are_equal(both):
  variables, apply, plain, packed = both
  run = jax.jit(lambda batch: apply(variables, batch)[0])
  one, many = run(plain), run(packed)
  aside = run({k: x for k, x in packed.items() if k != "fuse_index"})
  jax.tree.map(close, aside, many)
  for row, examples in enumerate(TABLE):
    for s, k in enumerate(examples):
      if k < 0:
        continue
      close(many["itm_logits"][row, s], one["itm_logits"][k])
      close(many["pooled"][row, s], one["pooled"][k])
      for stream in WIDTHS:
        own = packed[f"{stream}_segments"][row] == s + 1
        real = plain[f"{stream}_mask"][k]
        close(many[stream][row][own], one[stream][k][real])
        if stream == "regions":
          close(many["mrc_logits"][row][own], one["mrc_logits"][k][real])


def test_attention_stays_within_an_example(both):
  variables, _, _, packed = both
  model = uniter.Model(vocab_size=40, **MU)
  maps = jax.jit(functools.partial(model.apply, variables, maps=True))(packed)["maps"]
  number = [packed[f"{s}_segments"] for s in WIDTHS]
  number = np.concatenate(number, 1)
  number = np.take_along_axis(number, np.asarray(packed["fuse_index"]), 1)
  other = (number[:, :, None] != number[:, None]) & (number[:, :, None] > 0)
  assert (np.asarray(maps).transpose(2, 0, 1, 3, 4)[:, :, other] == 0).all()


def test_segments_are_wanted_of_every_stream(both):
  variables, apply, _, packed = both
  del (broken := dict(packed))["regions_segments"]
  with pytest.raises(KeyError, match="segments of all of"):
    jax.eval_shape(apply, variables, broken)


def test_parts_split_and_join():
  segments = jnp.array([[1, 1, 2, 2, 2, 3, 0, 0], [0] * 8])
  parts = packing.Parts.of(segments, 4)
  x = jnp.arange(16).reshape(2, 8) + 1
  own = parts.split(x)
  assert own[0, :, :3].tolist() == [[1, 2, 0], [3, 4, 5], [6, 0, 0], [0, 0, 0]]
  assert not own[1].any()
  assert not own[0, :, 3:].any()
  assert parts.join(own, -1)[0].tolist() == [1, 2, 3, 4, 5, 6, -1, -1]
  assert (parts.join(own, x)[1] == x[1]).all()


# ----- who refuses


@pytest.mark.parametrize(
  ("objective", "words"),
  [
    (contrastive.mil_nce, "objective contrastive:mil_nce refuses packing"),
    (match.itm, "objective match:itm with negatives='swap', wra_coef=0.1 refuses"),
    (
      functools.partial(match.itm, negatives="given"),
      "with wra_coef=0.1 refuses packing; set negatives='given', wra_coef=0",
    ),
  ],
)
def test_others_refuse_by_name(both, objective, words):
  assert words in packing.refusal(objective)
  _, apply, _, packed = both
  model = uniter.Model(vocab_size=40, **MU)
  mesh = sharding.mesh(None, jax.devices()[:1])
  _, abstract, shardings, tx = state_lib.init(model, lambda _: optax.sgd(1.0), mesh)
  run = step.build(
    objective, apply=apply, tx=tx, mesh=mesh, shardings=shardings, name="mine"
  )
  with pytest.raises(errors.UserError, match=r"tasks\.mine: objective") as caught:
    run.eval_shape(abstract, packed, KEY)
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
  "given",
  [
    dict(task="text_regions", dir="x", rows=8, pack=64),
    dict(task="text_regions", rows=8, mixture={"a": dict(dir="x", pack=64, rate=1)}),
  ],
)
def test_a_config_is_refused_before_any_data_is_read(given):
  config = dict(
    model=dict(name="uniter", variant="mu"),
    tasks=dict(itm=dict(objective="match:itm"), mlm=dict(objective="masked:mlm")),
    optim=dict(name="adamw", lr=1e-3),
    total_steps=4,
    checkpoint=dict(every=50),
    input=given,
  )
  with pytest.raises(errors.UserError, match=r"tasks\.itm: objective match:itm with"):
    settings.check(settings.load(config), vocab=settings.stand_in(), data_given=False)
  for name in OBJECTIVES:
    assert packing.refusal(OBJECTIVES[name]) == ""
