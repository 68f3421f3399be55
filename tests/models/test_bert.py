"""BERT: published counts, its importer, what padding and order change, learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import filled, helpers
from tests.reference import pairs_nce as reference
from vlp_jax import importers
from vlp_jax.importers import bert as importer
from vlp_jax.importers import uniter as uniter_importer
from vlp_jax.models import bert, uniter
from vlp_jax.objectives import generate, text
from vlp_jax.vocab import Vocab

VOCAB = Vocab(
  40, cls_id=1, sep_id=2, mask_id=3, special_ids=(0, 1, 2, 3), valid_range=(4, 40)
)
MU = bert.VARIANTS["mu"]
KEY = jax.random.key(3)
INPUTS = ("text_ids", "text_mask", "text_types", "mlm_positions")


def count(model):
  return sum(int(np.prod(x)) for x in importers.shapes(model).values())


@pytest.mark.parametrize(
  ("variant", "vocab_size", "heads", "number"),
  [
    ("base", 30_522, (), 109_482_240),
    ("base", 30_522, ("mlm", "nsp"), 110_106_428),
    ("base", 28_996, (), 108_310_272),
    ("large", 30_522, (), 335_141_888),
    ("large", 30_522, ("mlm", "nsp"), 336_226_108),
    # The published file has two rows of positions more, which are never read.
    ("roberta_base", 50_265, (), 124_645_632 - 2 * 768),
  ],
)
def test_published_parameter_counts(variant, vocab_size, heads, number):
  model = bert.Model(vocab_size=vocab_size, heads=heads, **bert.VARIANTS[variant])
  assert count(model) == number


@pytest.fixture(scope="module")
def small():
  model = bert.Model(vocab_size=40, **MU)
  variables = filled.variables(model)
  return model, variables, jax.jit(model.apply)


def texts(rows=4, length=9, seed=0):
  rng = np.random.default_rng(seed)
  size = rng.integers(5, length + 1, (rows, 1))
  place = np.arange(length)
  ids = rng.integers(4, 40, (rows, length))
  ids[:, 0] = 1
  ids = np.where(place == size - 1, 2, ids)
  out = {
    "text_ids": np.where(place < size, ids, 0).astype(np.int32),
    "text_mask": place < size,
    "text_types": (place >= 3).astype(np.int32),
    "mlm_positions": np.tile(np.array([1, 2], np.int32), (rows, 1)),
    "match": (np.arange(rows) % 2).astype(np.int32),
    "example_id": np.arange(rows, dtype=np.int32),
  }
  return {k: jnp.asarray(x) for k, x in out.items()}


def shown(batch):
  return {k: batch[k] for k in INPUTS}


def test_padding_changes_nothing(small):
  _, variables, run = small
  batch = shown(texts())
  out = run(variables, batch)
  other = batch | {"text_ids": jnp.where(batch["text_mask"], batch["text_ids"], 7)}
  got = run(variables, other)
  for name in ("text", "pooled", "mlm_logits", "nsp_logits", "text_features"):
    np.testing.assert_allclose(got[name], out[name], atol=1e-6, err_msg=name)
  assert not np.asarray(out["text"])[~np.asarray(batch["text_mask"])].any()


def test_a_causal_model_does_not_look_ahead(small):
  _, variables, run = small
  batch = shown(texts())
  changed = batch | {"text_ids": batch["text_ids"].at[:, 4].set(20)}
  model = bert.Model(vocab_size=40, causal=True, **MU)
  early = [jax.jit(model.apply)(variables, b)["text"][:, :4] for b in (batch, changed)]
  np.testing.assert_array_equal(*early)
  both = [run(variables, b)["text"][:, :4] for b in (batch, changed)]
  assert np.abs(both[0] - both[1]).max() > 1e-4


def flat(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in leaves}


def test_export_and_import_are_inverse_in_every_spelling(small):
  model, variables, _ = small
  want = flat(variables["params"])
  torch = importer.export(variables)
  assert torch["bert.encoder.layer.1.intermediate.dense.weight"].shape == (128, 32)
  old = {
    f"module.{k}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
      "LayerNorm.bias", "LayerNorm.beta"
    ): x
    for k, x in torch.items()
  }
  tied = torch | {
    "cls.predictions.decoder.weight": torch["bert.embeddings.word_embeddings.weight"],
    "cls.predictions.decoder.bias": torch["cls.predictions.bias"],
    "bert.embeddings.position_ids": np.arange(64),
  }
  google = {}
  for name, x in torch.items():
    to = name.replace(".layer.", ".layer_").replace(".", "/")
    to = to.replace("seq_relationship/weight", "seq_relationship/output_weights")
    to = to.replace("seq_relationship/bias", "seq_relationship/output_bias")
    to = to.replace("predictions/bias", "predictions/output_bias")
    if "LayerNorm" in to:
      to = to.replace("/weight", "/gamma").replace("/bias", "/beta")
    elif to.endswith("_embeddings/weight"):
      to = to.removesuffix("/weight")
    elif to.endswith("/weight"):
      to, x = to.removesuffix("weight") + "kernel", x.T
    google[to] = x
  google |= {"global_step": np.int64(7), "bert/pooler/dense/kernel/adam_m": np.ones(2)}
  for arrays in (torch, old, tied, google):
    got, report = importer.convert(arrays, model)
    assert report.missing == report.unused == ()
    got = flat(got["params"])
    assert set(got) == set(want)
    for path, x in want.items():
      np.testing.assert_array_equal(got[path], x, err_msg=path)
  again = importer.export(importer.convert(torch, model)[0])
  assert all((again[k] == x).all() for k, x in torch.items())


def test_bare_encoders_and_roberta(small):
  _, variables, _ = small
  torch = importer.export(variables)
  bare = {k.removeprefix("bert."): x for k, x in torch.items() if k.startswith("bert.")}
  del bare["pooler.dense.weight"], bare["pooler.dense.bias"]
  model = bert.Model(vocab_size=40, **MU)
  _, report = importer.convert(bare, model)
  parts = {path.split("/")[0] for path in report.missing}
  assert parts == {"bert", "mlm_head", "nsp_head"}  # bert: the pooler
  roberta = {}
  for name, x in torch.items():
    if name.startswith("cls.seq"):
      continue
    to = name.replace("bert.", "roberta.", 1)
    to = to.replace("cls.predictions.transform.dense", "lm_head.dense")
    to = to.replace("cls.predictions.transform.LayerNorm", "lm_head.layer_norm")
    roberta[to.replace("cls.predictions", "lm_head")] = x
  name = "roberta.embeddings.position_embeddings.weight"
  roberta[name] = np.concatenate([np.full((2, 32), 9.0), roberta[name]])
  types = "roberta.embeddings.token_type_embeddings.weight"
  roberta[types] = roberta[types][:1]
  given = MU | dict(type_vocab=1, heads=("mlm",))
  got, report = importer.convert(roberta, bert.Model(vocab_size=40, **given))
  want = variables["params"]["bert"]["embed"]["positions"]
  np.testing.assert_array_equal(got["params"]["bert"]["embed"]["positions"], want)
  assert report.missing == ()
  with pytest.raises(ValueError, match="not used by the model: bert\\.extra"):
    importer.convert(torch | {"bert.extra": np.zeros(2)}, model)


def test_states_are_those_of_the_published_network():
  weights, i, _, meta = helpers.golden("uniter_pretrain")
  c = meta["config"]
  sizes = dict(
    vocab_size=c["vocab_size"],
    width=c["hidden_size"],
    depth=c["num_hidden_layers"],
    num_heads=c["num_attention_heads"],
    mlp_dim=c["intermediate_size"],
    max_positions=c["max_position_embeddings"],
  )
  parts = ("uniter.embeddings", "uniter.encoder", "uniter.pooler", "cls.")
  own = {
    k.replace("uniter.", "bert."): x for k, x in weights.items() if k.startswith(parts)
  }
  variables, _ = importer.convert(own, bert.Model(heads=("mlm",), **sizes))
  length = i["input_ids"].shape[1]
  batch = {
    "text_ids": i["input_ids"].astype(np.int32),
    "text_mask": np.arange(length) < i["txt_lens"][:, None],
  }
  got = bert.Model(heads=("mlm",), **sizes).apply(variables, batch)
  known = uniter.Model(
    region_dim=i["img_feat"].shape[-1],
    region_classes=meta.get("label_dim", 11),
    **sizes,
  )
  filled, _ = uniter_importer.convert(weights, known)
  want = known.apply(filled, batch)
  for name in ("text", "pooled"):
    np.testing.assert_allclose(got[name], want[name], atol=1e-6)


# ----- objectives


def objective(name):
  fn = {"bert": functools.partial(text.bert, vocab=VOCAB), "nsp": text.nsp}
  return (fn | {"lm": generate.lm})[name]


def spied(small, name):
  """A compiled objective: (outputs of the model, terms, metrics) of a batch."""
  model, variables, _ = small
  seen = {}

  def apply(variables, batch, *, rng=None, train=False, method=None):
    seen.update(batch)
    out = model.apply(variables, batch, train=False)
    seen["out"] = out
    return out, {}

  def run(batch):
    terms, aux, _ = objective(name)(apply, variables, batch, KEY)
    return seen["out"], {k: seen[k] for k in ("text_ids", "mlm_positions")}, terms, aux

  return jax.jit(run)


def test_losses_agree_with_the_oracle(small):
  batch = texts() | {"example_mask": jnp.array([True, True, False, True])}
  real = np.asarray(batch["example_mask"])
  out, _, terms, aux = spied(small, "bert")(batch)
  logits, label = np.asarray(out["nsp_logits"])[:, None], 1 - batch["match"][:, None]
  want = reference.restricted(logits, np.asarray(label), real[:, None])
  np.testing.assert_allclose(terms["nsp"].value, want, rtol=1e-5)
  right = logits[:, 0].argmax(-1) == np.asarray(label)[:, 0]
  np.testing.assert_allclose(aux["nsp/accuracy"].value, right[real].mean(), rtol=1e-6)
  assert terms["mlm"].weight > 0
  ids, mask = np.asarray(batch["text_ids"]), np.asarray(batch["text_mask"])
  out, given, terms, _ = spied(small, "lm")(batch)
  np.testing.assert_array_equal(given["text_ids"], ids)  # nothing is corrupted
  want = reference.restricted(
    np.asarray(out["mlm_logits"]), ids[:, 1:], mask[:, 1:] & real[:, None]
  )
  np.testing.assert_allclose(terms["lm"].value, want, rtol=1e-5)
  assert terms["lm"].weight == mask[real, 1:].sum()
  with pytest.raises(KeyError, match="match"):
    text.nsp(
      lambda *a, **k: ({"nsp_logits": logits[:, 0]}, {}),
      {},
      shown(batch) | {"example_id": batch["example_id"]},
      KEY,
    )


def test_order_of_sentences_and_next_words_are_learnt():
  """Counting upwards is the language; a second half that goes on follows the first."""
  rng = np.random.default_rng(0)

  def batch(rows=64):
    start = rng.integers(0, 36, (rows, 1))
    match = rng.integers(0, 2, rows)
    first = (start + np.arange(4)) % 36
    other = np.where(match, start[:, 0] + 4, start[:, 0] + 22)[:, None]
    ids = np.concatenate([first, (other + np.arange(4)) % 36], axis=1) + 4
    ids = np.concatenate([np.ones((rows, 1), int), ids], axis=1)
    return {
      "text_ids": ids.astype(np.int32),
      "text_mask": np.ones(ids.shape, bool),
      "text_types": np.tile((np.arange(9) > 4).astype(np.int32), (rows, 1)),
      "match": match.astype(np.int32),
      "example_id": np.arange(rows, dtype=np.int32),
    }

  model = bert.Model(vocab_size=40, causal=True, dropout=0.0, **MU)
  params = filled.variables(model)
  tx = optax.adam(3e-3)
  apply = lambda v, b, **_: (model.apply(v, b), {})

  @jax.jit
  def step(params, state, batch, n):
    def loss(params):
      terms, aux, _ = generate.lm(apply, params, batch, jax.random.fold_in(KEY, n))
      return terms["lm"].value, aux["lm/accuracy"].value

    (_, right), grads = jax.value_and_grad(loss, has_aux=True)(params)
    updates, state = tx.update(grads, state)
    return optax.apply_updates(params, updates), state, right

  state, right = tx.init(params), []
  for n in range(120):
    params, state, value = step(params, state, batch(), n)
    right.append(float(value))
  # Of 8 words one is free and one goes either way: 6.5 of 8 at best, 1 of 36 by chance.
  assert np.mean(right[-10:]) > 0.5 > 5 * np.mean(right[:2])
