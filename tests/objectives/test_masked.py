import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import masked as reference
from vlp_jax.objectives import masked, masking
from vlp_jax.vocab import Vocab

VOCAB = Vocab(
  1000,
  pad_id=0,
  unk_id=1,
  cls_id=2,
  sep_id=3,
  mask_id=4,
  special_ids=(0, 1, 2, 3, 4),
  valid_range=(10, 1000),
)
SIZE, CLASSES, WIDTH = 20, 5, 3


def batch(rows=6, length=9, regions=4, seed=0):
  rng = np.random.default_rng(seed)
  ids = rng.integers(10, 1000, (rows, length)).astype(np.int32)
  ids[:, 0] = VOCAB.cls_id
  where = np.arange(length) < rng.integers(4, length + 1, (rows, 1))
  probs = rng.dirichlet(np.ones(CLASSES), (rows, regions)).astype(np.float16)
  out = {
    "text_ids": ids,
    "text_mask": where,
    "regions_features": rng.normal(size=(rows, regions, WIDTH)).astype(np.float32),
    "regions_mask": np.arange(regions) < rng.integers(1, regions + 1, (rows, 1)),
    "regions_probs": probs,
    "example_id": np.arange(rows, dtype=np.int32),
  }
  return {k: jnp.asarray(x) for k, x in out.items()}


def apply(variables, batch, *, rng=None, train=False, method=None):
  """A model without layers: what it says depends on the row and on its parameters."""
  w = variables["params"]["w"]
  rows = batch["example_id"][:, None, None] + 1.0
  out = {}
  if "mlm_positions" in batch:
    places = batch["mlm_positions"][..., None] + 1.0
    out["mlm_logits"] = jnp.sin(rows * places * jnp.arange(VOCAB.size)) * w
  if "regions_masked" in batch:
    place = jnp.arange(batch["regions_mask"].shape[1])[:, None] + 1.0
    out["mrc_logits"] = jnp.sin(rows * place * jnp.arange(CLASSES)) * w
    out["mrfr"] = jnp.cos(rows * place * jnp.arange(WIDTH)) * w
  return out, {}


VARIABLES = {"params": {"w": jnp.float32(1.3)}}
KEY = jax.random.key(7)
OBJECTIVES = {
  "mlm": functools.partial(masked.mlm, vocab=VOCAB),
  "mrfr": masked.mrfr,
  "mrc": masked.mrc,
  "mrc_kl": masked.mrc_kl,
}
bert = jax.jit(
  jax.vmap(functools.partial(masking.bert, rate=0.15, size=SIZE, vocab=VOCAB))
)
hide = jax.jit(jax.vmap(functools.partial(masking.regions, rate=0.15)))


def keys(rows, key=KEY):
  return masking.row_keys(key, jnp.arange(rows))


def probe(name, **hyper):
  """A compiled objective: (batch that the model was given, its outputs, terms, aux)."""

  def run(one):
    got = {}

    def spy(variables, batch, **kwargs):
      got.update(batch=batch, out=apply(variables, batch, **kwargs)[0])
      return got["out"], {}

    terms, aux, _ = OBJECTIVES[name](spy, VARIABLES, one, KEY, **hyper)
    return got["batch"], got["out"], terms, aux

  return jax.jit(run)


RUN = {name: probe(name) for name in OBJECTIVES}


def rows_of(batch, at):
  return {k: x[np.asarray(at)] for k, x in batch.items()}


def within(count, n, p):
  assert abs(count - n * p) <= 3 * np.sqrt(n * p * (1 - p)), (count, n * p)


def test_statistics_of_masked_words():
  rows, length = 1000, 40
  ids = jnp.full((rows, length), 500, jnp.int32).at[:, 0].set(VOCAB.cls_id)
  words = (jnp.arange(length) > 0) & jnp.ones((rows, 1), bool)
  new, positions, where, lost = (np.asarray(x) for x in bert(keys(rows), ids, words))
  count, n = where.sum(), rows * (length - 1)
  assert lost.sum() == 0
  within(count, n, 0.15)
  became = np.take_along_axis(new, positions, axis=1)[where]
  within((became == VOCAB.mask_id).sum(), count, 0.8)
  within((became == 500).sum(), count, 0.1 + 0.1 / 990)
  other = became[(became != VOCAB.mask_id) & (became != 500)]
  within(len(other), count, 0.1)
  assert other.min() >= 10
  assert np.unique(other).size > 100
  untouched = np.ones_like(new, bool)
  np.put_along_axis(untouched, np.where(where, positions, 0), False, axis=1)
  assert (new == np.asarray(ids))[untouched].all()
  assert (new[:, 0] == VOCAB.cls_id).all()


def test_at_least_the_first_word_becomes_the_mask():
  rows = 400
  ids = jnp.full((rows, 4), 500, jnp.int32)
  words = jnp.array([[False, True, True, False]] * rows)
  new, positions, where, _ = (np.asarray(x) for x in bert(keys(rows), ids, words))
  assert (where.sum(1) >= 1).all()
  # Nothing drawn has probability 0.85^2; then it is the first word, always [MASK].
  first = (where.sum(1) == 1) & (positions.max(1) == 1)
  within(first.sum(), rows, 0.85**2 + 0.15 * 0.85)
  lone = first & (new[:, 1] != VOCAB.mask_id)
  within(lone.sum(), rows, 0.15 * 0.85 * 0.2)
  none = bert(keys(2), ids[:2], jnp.zeros((2, 4), bool))
  assert not none.where.any()
  assert (none.ids == ids[:2]).all()


def test_words_beyond_the_size_are_left_and_counted():
  one = functools.partial(masking.bert, rate=1.0, size=3, vocab=VOCAB)
  few = jax.jit(jax.vmap(one))
  ids = jnp.full((200, 10), 500, jnp.int32)
  new, positions, where, lost = few(keys(200), ids, jnp.ones((200, 10), bool))
  assert (lost == 7).all()
  assert where.all()
  assert ((new != 500).sum(1) <= 3).all()
  assert (jnp.diff(positions, axis=1) > 0).all()
  # Thinned at random: every place is kept equally often, not the first three.
  within(int((positions == 9).sum()), 200, 0.3)


def test_statistics_of_masked_regions():
  real = jnp.arange(12) < jnp.array([[12]] * 900 + [[2]] * 300)
  hidden = np.asarray(hide(keys(1200), real))
  assert not (hidden & ~np.asarray(real)).any()
  assert hidden.any(axis=1).all()
  expected = 0.15 * 12 + 0.85**12  # one more where none was drawn
  assert abs(hidden[:900].sum() / 900 - expected) < 0.15
  only = hidden[900:, :2][hidden[900:].sum(1) == 1]
  within(only[:, 0].sum(), len(only), 0.5)  # the spare one is drawn at random
  assert not hide(keys(2), jnp.zeros((2, 3), bool)).any()


def test_masks_depend_on_the_example_and_not_on_the_batch():
  whole = batch()
  got = RUN["mlm"](whole)[0]["text_ids"]
  hidden = RUN["mrfr"](whole)[0]["regions_masked"]
  at = np.array([4, 1])
  assert (RUN["mlm"](rows_of(whole, at))[0]["text_ids"] == got[at]).all()
  assert (RUN["mrfr"](rows_of(whole, at))[0]["regions_masked"] == hidden[at]).all()
  # Longer padding (another rung) changes no mask either.
  text = ("text_ids", "text_mask")
  padded = whole | {k: jnp.pad(whole[k], ((0, 0), (0, 5))) for k in text}
  assert (RUN["mlm"](padded)[0]["text_ids"][:, :9] == got).all()


def test_loss_of_words_agrees_with_the_oracle():
  one = batch()
  got, out, terms, aux = RUN["mlm"](one)
  words = one["text_mask"] & (one["text_ids"] > 4)
  where = np.asarray(bert(keys(6, jax.random.split(KEY)[0]), one["text_ids"], words)[2])
  logits, ids = np.asarray(out["mlm_logits"]), np.asarray(one["text_ids"])
  target = np.take_along_axis(ids, np.asarray(got["mlm_positions"]), axis=1)
  want = reference.cross_entropy(logits, target, where)
  np.testing.assert_allclose(terms["mlm"].value, want, rtol=1e-5)
  right = (logits.argmax(-1) == target)[where]
  np.testing.assert_allclose(aux["mlm/accuracy"].value, right.mean())


@pytest.mark.parametrize("over", ["mean", "sum"])
def test_losses_of_regions_agree_with_the_oracle(over):
  one = batch()
  soft = np.asarray(one["regions_probs"], np.float32)
  reduction = "elementwise" if over == "mean" else "sum_over_classes"
  got, out, terms, aux = probe("mrc_kl", reduction=reduction)(one)
  where, logits = np.asarray(got["regions_masked"]), np.asarray(out["mrc_logits"])
  want = reference.kl(logits, soft, where, over_classes=over)
  np.testing.assert_allclose(terms["mrc_kl"].value, want, rtol=1e-5)
  right = (logits.argmax(-1) == soft.argmax(-1))[where]
  np.testing.assert_allclose(aux["mrc_kl/accuracy"].value, right.mean())

  reduction = "elementwise" if over == "mean" else "sum_over_features"
  _, out, terms, aux = probe("mrfr", reduction=reduction)(one)
  given = np.asarray(one["regions_features"])
  error = functools.partial(
    reference.squared_error, np.asarray(out["mrfr"]), given, where
  )
  np.testing.assert_allclose(terms["mrfr"].value, error(over_dims=over), rtol=1e-5)
  np.testing.assert_allclose(aux["mrfr/error"].value, error(over_dims="mean"), 1e-5)


def test_hard_labels_from_probabilities_or_object_ids():
  one = batch()
  got, out, terms, _ = RUN["mrc"](one)
  hard = np.asarray(one.pop("regions_probs"))[..., 1:].argmax(-1) + 1
  where, logits = np.asarray(got["regions_masked"]), np.asarray(out["mrc_logits"])
  want = reference.cross_entropy(logits, hard, where)
  np.testing.assert_allclose(terms["mrc"].value, want, rtol=1e-5)
  with pytest.raises(KeyError, match="regions_objects"):
    RUN["mrc"](one)
  ids = one | {"regions_objects": jnp.asarray(hard, jnp.int32)}
  np.testing.assert_allclose(RUN["mrc"](ids)[2]["mrc"].value, want, rtol=1e-5)
  background = one | {"regions_objects": jnp.zeros((6, 4), jnp.int32)}
  assert RUN["mrc"](background)[2]["mrc"].weight == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_microbatches_add_up(name):
  one = batch()
  whole = RUN[name](one)[2][name]
  parts = [RUN[name](rows_of(one, [i, i + 1]))[2][name] for i in (0, 2, 4)]
  np.testing.assert_allclose(sum(p.weight for p in parts), whole.weight)
  np.testing.assert_allclose(sum(p.total for p in parts), whole.total, rtol=1e-6)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_padding_rows_and_empty_rows_count_for_nothing(name):
  one, pair = batch(), [2, 3]
  alone = RUN[name](rows_of(one, pair))[2][name]

  @jax.jit
  def loss(params, one):
    term = OBJECTIVES[name](apply, {"params": params}, one, KEY)[0][name]
    return term.value, term

  run = jax.value_and_grad(loss, has_aux=True)
  mask = jnp.isin(jnp.arange(6), jnp.array(pair))
  (_, padded), _ = run(VARIABLES["params"], one | {"example_mask": mask})
  np.testing.assert_allclose(padded.total, alone.total, rtol=1e-6)
  assert padded.weight == alone.weight
  blind = {k: jnp.zeros_like(one[k]) for k in ("text_mask", "regions_mask")}
  blind["example_mask"] = jnp.ones(6, bool)
  (value, term), grad = run(VARIABLES["params"], one | blind)
  assert value == 0
  assert term.weight == 0
  assert grad["w"] == 0


def test_switches_are_checked():
  with pytest.raises(ValueError, match="sum_over_classes"):
    probe("mrc_kl", reduction="mean")(batch())
  with pytest.raises(ValueError, match="mask id"):
    masked.mlm(apply, VARIABLES, batch(), KEY, vocab=Vocab(1000))
