import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import helpers
from vlp_jax import batch as batch_lib
from vlp_jax.importers import uniter as importer
from vlp_jax.models import uniter
from vlp_jax.objectives import masked, match, transport
from vlp_jax.vocab import Vocab

VOCAB = Vocab(
  120, cls_id=2, sep_id=3, mask_id=4, special_ids=(0, 1, 2, 3, 4), valid_range=(5, 120)
)
# Variant, heads, further keywords -> published parameter count.
COUNTS = [
  ("base", {}, 112_938_887),
  ("large", {}, 340_524_935),
  ("base", {"heads": ()}, 109_898_752),
  ("base", {"heads": ("vqa",), "num_answers": 3129}, 115_892_281),
  ("base", {"heads": ("vqa",), "num_answers": 3}, 111_087_619),
  ("base", {"heads": ("pair",), "type_vocab": 3}, 109_902_594),
  ("base", {"heads": ("triplet",), "type_vocab": 3}, 109_901_058),
  ("base", {"heads": ("paired_attn",), "type_vocab": 3}, 115_808_515),
  ("base", {"heads": ("refer",)}, 109_899_521),
  ("base", {"heads": ("refer_mlp",)}, 110_491_649),
  ("base", {"heads": ("vcr",), "type_vocab": 4, "vocab_size": 29_077}, 111_149_826),
]


def shapes(model):
  make = functools.partial(model.init, jax.random.key(0))
  return nn.unbox(jax.eval_shape(make, batch_lib.zeros(model.spec())))["params"]


@pytest.mark.parametrize(("variant", "more", "count"), COUNTS)
def test_published_parameter_counts(variant, more, count):
  given = {"vocab_size": 28_996} | uniter.VARIANTS[variant] | more
  tree = shapes(uniter.Model(**given))
  assert sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree)) == count


def test_kernels_name_their_axes():
  model = uniter.Model(vocab_size=120, **uniter.MU)
  make = functools.partial(model.init, jax.random.key(0))
  tree = jax.eval_shape(make, batch_lib.zeros(model.spec()))["params"]
  layers = tree["encoder"]["stack"]["layers"]
  qkv = layers["attention"]["qkv"]["kernel"]
  assert qkv.names == ("layers", "embed", None, "heads", "kv")
  assert layers["mlp_out"]["kernel"].names == ("layers", "mlp", "embed")
  assert tree["embed_text"]["words"].names == ("vocab", "embed")


# ----- published outputs


def reference_batch(i, features="img_feat"):
  """Inputs of a golden file in the batch contract."""
  length, count = i["input_ids"].shape[1], i["img_feat"].shape[1]
  out = {
    "text_ids": i["input_ids"].astype(np.int32),
    "text_mask": np.arange(length) < i["txt_lens"][:, None],
    "regions_features": i[features],
    "regions_boxes": i["img_pos_feat"],
    "regions_mask": np.arange(count) < i["num_bbs"][:, None],
  }
  if "img_type_ids" in i:
    out["regions_types"] = i["img_type_ids"].astype(np.int32)
  return {k: jnp.asarray(x) for k, x in out.items()}


def imported(name, **more):
  """(model, variables, report, inputs, outputs) of a golden file."""
  w, i, o, meta = helpers.golden(name)
  c = meta["config"]
  model = uniter.Model(
    vocab_size=c["vocab_size"],
    width=c["hidden_size"],
    depth=c["num_hidden_layers"],
    num_heads=c["num_attention_heads"],
    mlp_dim=c["intermediate_size"],
    region_dim=i["img_feat"].shape[-1],
    region_classes=meta.get("label_dim", 11),
    type_vocab=len(w["uniter.embeddings.token_type_embeddings.weight"]),
    max_positions=c["max_position_embeddings"],
    **more,
  )
  variables, report = importer.convert(w, model)
  return model, variables, report, i, o


@pytest.fixture(scope="module")
def pretrain():
  model, variables, report, i, o = imported("uniter_pretrain")
  run = jax.jit(functools.partial(model.apply, variables))
  return model, variables, report, i, o, run


def close(got, want):
  np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-5)


def test_every_published_entry_is_used(pretrain):
  model, variables, report, *_ = pretrain
  assert report.unused == ()
  assert report.missing == ()
  assert report.surgery == ()
  same = jax.tree.map(
    lambda a, b: a.shape == b.shape, variables["params"], shapes(model)
  )
  assert all(jax.tree.leaves(same))


def test_published_encoder_and_matching(pretrain):
  _, _, _, i, o, run = pretrain
  real = i["attn_masks"].astype(bool)
  ours = reference_batch(i) | {"mlm_positions": jnp.zeros((4, 1), jnp.int32)}
  ours["regions_masked"] = jnp.zeros((4, 5), bool)
  out = run(ours)
  both = np.concatenate([out["text"], out["regions"]], axis=1)
  compacted = np.take_along_axis(both, i["gather_index"][..., None], axis=1)
  close(compacted[real], o["sequence_output"][real])
  close(out["pooled"], o["pooled"])
  close(out["itm_logits"], o["itm_scores"])
  labels = i["itm_targets"].astype(np.int32)
  xent = optax.softmax_cross_entropy_with_integer_labels(out["itm_logits"], labels)
  close(xent, o["itm_loss"])
  far = transport.distance(
    out["text"], out["regions"], ours["text_mask"], ours["regions_mask"]
  )
  close(far[labels == 1], o["ot_pos"])
  close(far[labels == 0], o["ot_neg"])

  given = ours | {"match": jnp.asarray(labels), "example_id": jnp.arange(4)}
  apply = lambda variables, batch, **_: (out, {})
  terms, _, _ = match.itm(apply, {}, given, jax.random.key(0), negatives="given")
  close(terms["itm"].value, o["itm_loss"].mean())
  close(terms["wra"].value, 0.1 * (o["ot_pos"].sum() - o["ot_neg"].sum()) / 4)


def test_published_masked_words_and_regions(pretrain):
  _, _, _, i, o, run = pretrain
  rows, places = np.nonzero(i["txt_labels"] != -1)
  position = np.zeros((4, 3), np.int32)
  where = np.zeros((4, 3), bool)
  for row in range(4):
    at = places[rows == row]
    position[row, : len(at)], where[row, : len(at)] = at, True
  hidden = jnp.asarray(i["img_masks"])
  words = reference_batch(i) | {"mlm_positions": jnp.asarray(position)}
  logits = run(words | {"regions_masked": jnp.zeros_like(hidden)})["mlm_logits"][where]
  close(logits, o["mlm_scores"])
  labels = i["txt_labels"][rows, places].astype(np.int32)
  xent = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
  close(xent, o["mlm_loss"])

  out = run(words | {"regions_masked": hidden})
  keep = np.asarray(hidden)
  close(out["mrfr"][keep], o["mrfr_pred"])
  close(jnp.square(out["mrfr"][keep] - i["feat_targets"]), o["mrfr_loss"])
  close(out["mrc_logits"][keep], o["mrc_logits"])
  hard = i["label_targets"][:, 1:].argmax(-1) + 1
  logits = out["mrc_logits"][keep]
  close(optax.softmax_cross_entropy_with_integer_labels(logits, hard), o["mrc_loss"])
  close(masked.kl_elements(logits, i["label_targets"]), o["mrckl_loss"])


@pytest.mark.parametrize("form", ["published", "minus one", "longer", "swapped"])
def test_compacted_and_side_by_side_agree(pretrain, form):
  _, _, _, i, _, run = pretrain
  real, index = i["attn_masks"].astype(bool), i["gather_index"].astype(np.int32)
  if form == "minus one":
    index = np.where(real, index, -1)
  elif form == "longer":  # a rung beyond all tokens
    index = np.pad(np.where(real, index, 99), ((0, 0), (0, 3)), constant_values=-1)
  elif form == "swapped":  # regions first: attention sees no order
    index = np.where(real, index, -1)[:, ::-1]
  ours = reference_batch(i) | {"mlm_positions": jnp.zeros((4, 1), jnp.int32)}
  ours["regions_masked"] = jnp.zeros((4, 5), bool)
  plain, compact = run(ours), run(ours | {"fuse_index": jnp.asarray(index)})
  for name in plain:
    close(compact[name], plain[name])


def test_padding_changes_nothing(pretrain):
  _, _, _, i, _, run = pretrain
  ours = reference_batch(i)
  noisy = {}
  for name, x in ours.items():
    stream, field = name.split("_")
    more = jnp.pad(x, [(0, 0), (0, 3), *[(0, 0)] * (x.ndim - 2)])
    where = jnp.pad(ours[f"{stream}_mask"], [(0, 0), (0, 3)])
    where = where.reshape(*where.shape, *[1] * (x.ndim - 2))
    noisy[name] = more if field == "mask" else jnp.where(where, more, 7).astype(x.dtype)
  plain, padded = run(ours), run(noisy)
  for name in ("pooled", "itm_logits"):
    close(padded[name], plain[name])
  close(padded["text"][:, :7], plain["text"])
  assert (padded["regions"][:, 5:] == 0).all()


def test_missing_modalities(pretrain):
  _, _, _, i, _, run = pretrain
  ours = reference_batch(i)
  text = run({k: x for k, x in ours.items() if k.startswith("text")})
  assert "regions" not in text
  unseen = run(ours | {"regions_mask": jnp.zeros((4, 5), bool)})
  close(unseen["pooled"], text["pooled"])
  image = run({k: x for k, x in ours.items() if k.startswith("regions")})
  assert set(image) == {"regions", "mrfr", "mrc_logits"}
  with pytest.raises(KeyError, match="text_ids or regions"):
    run({"example_id": jnp.zeros(4, jnp.int32)})


def test_hidden_states_and_maps_on_request(pretrain):
  model, variables, _, i, o, _ = pretrain
  run = functools.partial(model.apply, hidden=True, maps=True)
  out = jax.jit(run)(variables, reference_batch(i))
  assert out["hidden"].shape == (3, 4, 12, 32)
  assert out["maps"].shape == (3, 4, 4, 12, 12)
  close(out["hidden"][-1, :, 0], o["sequence_output"][:, 0])
  close(out["maps"].sum(-1), 1.0)
  for row, length in enumerate(i["txt_lens"]):
    assert (out["maps"][:, row, :, :, length:7] == 0).all()


def test_published_answer_head():
  model, variables, report, i, o = imported(
    "uniter_vqa", heads=("vqa",), num_answers=13
  )
  assert report.unused == report.missing == ()
  logits = jax.jit(model.apply)(variables, reference_batch(i))["answer_logits"]
  close(logits, o["scores"])
  close(optax.sigmoid_binary_cross_entropy(logits, i["targets"]), o["loss"])


def test_published_ranking_head():
  model, variables, report, i, o = imported("uniter_itr", heads=("itm", "rank"))
  assert report.unused == report.missing == ()
  scores = jax.jit(model.apply)(variables, reference_batch(i))["rank_logits"]
  close(scores[:, None], o["rank_scores"])
  close(match.hinge(scores[None, :1], scores[None, 1:]), o["loss_sample4"])


def test_published_paired_attention():
  model, variables, report, i, o = imported(
    "uniter_nlvr2_paired_attn", heads=("paired_attn",)
  )
  assert report.unused == report.missing == ()
  run = jax.jit(lambda batch: model.apply(variables, batch)["label_logits"])
  logits = run(reference_batch(i))
  close(logits, o["logits"])
  labels = i["targets"].astype(np.int32)
  close(optax.softmax_cross_entropy_with_integer_labels(logits, labels), o["loss"])

  # One text and both images in a row are the same as two rows.
  ours = reference_batch(i)
  ours["regions_types"] = jnp.tile(jnp.array([[1], [2]]), (2, 5))
  ours |= {k: jnp.repeat(ours[k][::2], 2, axis=0) for k in ("text_ids", "text_mask")}
  left = {k: x[::2] for k, x in ours.items() if k != "regions_types"}
  right = {
    k.replace("regions_", "regions2_"): x[1::2]
    for k, x in ours.items()
    if k.startswith("regions_") and k != "regions_types"
  }
  close(run(left | right), run(ours))


# ----- our own weights


def mu_batch(rows=8, length=8, regions=6):
  rng = np.random.default_rng(0)
  out = {
    "text_ids": rng.integers(5, 120, (rows, length)).astype(np.int32),
    "text_mask": np.arange(length) < rng.integers(3, length + 1, (rows, 1)),
    "regions_features": rng.normal(size=(rows, regions, 16)).astype(np.float32),
    "regions_boxes": rng.random((rows, regions, 7)).astype(np.float32),
    "regions_mask": np.arange(regions) < rng.integers(1, regions + 1, (rows, 1)),
    "regions_probs": rng.dirichlet(np.ones(11), (rows, regions)).astype(np.float16),
    "example_id": np.arange(rows, dtype=np.int32),
    "group_id": np.arange(rows, dtype=np.int32),
  }
  return {k: jnp.asarray(x) for k, x in out.items()}


@pytest.fixture(scope="module")
def small():
  model = uniter.Model(vocab_size=120, **uniter.MU)
  make = lambda key: nn.unbox(model.init(key, batch_lib.zeros(model.spec())))
  return model, jax.jit(make)(jax.random.key(0))


def apply_of(model):
  def apply(variables, batch, *, rng=None, train=False, method=None):
    rngs = {} if rng is None else {"dropout": rng}
    return model.apply(variables, batch, train=train, rngs=rngs, method=method), {}

  return apply


def test_one_step_lowers_every_loss(small):
  model, variables = small
  model = model.clone(dropout=0.0)
  key = jax.random.key(1)
  objectives = {
    "mlm": functools.partial(masked.mlm, vocab=VOCAB),
    "mrfr": masked.mrfr,
    "mrc_kl": masked.mrc_kl,
    "itm": match.itm,
  }

  def losses(variables):
    found = {}
    for fn in objectives.values():
      terms = fn(apply_of(model), variables, mu_batch(), key)[0]
      found |= {k: t.coef * t.value for k, t in terms.items()}
    return sum(found.values()), found

  run = jax.jit(jax.value_and_grad(losses, has_aux=True))
  (before, parts), grad = run(variables)
  assert set(parts) == {"mlm", "mrfr", "mrc_kl", "itm", "wra"}
  flat = jax.tree_util.tree_leaves_with_path(grad)
  for path, g in flat:
    assert np.isfinite(g).all(), path
    assert np.abs(g).max() > 0, path
  stepped = jax.tree.map(lambda p, g: p - 0.05 * g, variables, grad)
  (after, _), _ = run(stepped)
  assert after < before


def test_bfloat16_and_dropout_keep_the_contract(small):
  model, variables = small
  model = model.clone(dtype="bfloat16")
  ours = mu_batch() | {"mlm_positions": jnp.ones((8, 2), jnp.int32)}
  run = lambda b, key: model.apply(variables, b, train=True, rngs={"dropout": key})
  out = jax.jit(run)(ours, jax.random.key(0))
  assert out["text"].dtype == jnp.bfloat16
  for name in ("mlm_logits", "mrfr", "mrc_logits", "itm_logits"):
    assert out[name].dtype == jnp.float32, name
    assert np.isfinite(out[name]).all()
  other = jax.jit(run)(ours, jax.random.key(1))
  assert (other["itm_logits"] != out["itm_logits"]).any()


def test_delta_is_added_to_words_and_features(small):
  model, variables = small
  run = jax.jit(functools.partial(model.apply, variables))
  ours = mu_batch()
  zero = {
    "text_delta": jnp.zeros((8, 8, 64)),
    "regions_delta": jnp.zeros((8, 6, 16)),
  }
  plain = run(ours)
  close(run(ours | zero)["pooled"], plain["pooled"])
  moved = run(ours | zero | {"regions_delta": jnp.ones((8, 6, 16))})
  shifted = run(ours | {"regions_features": ours["regions_features"] + 1})
  close(moved["pooled"], shifted["pooled"])
  assert np.abs(moved["pooled"] - plain["pooled"]).max() > 1e-3


def test_errors_say_what_to_do(small):
  model, variables = small
  run = functools.partial(jax.eval_shape, functools.partial(model.apply, variables))
  with pytest.raises(ValueError, match="region_dim=24"):
    run(mu_batch() | {"regions_features": jnp.zeros((8, 6, 24))})
  long = {
    "text_ids": jnp.zeros((8, 65), jnp.int32),
    "text_mask": jnp.ones((8, 65), bool),
  }
  with pytest.raises(ValueError, match="64 positions"):
    run(long)
  for more, words in (
    ({"heads": ("mln",)}, "mln"),
    ({"heads": ("vqa",)}, "num_answers"),
    ({"heads": ("pair",)}, "type_vocab"),
  ):
    bad = uniter.Model(vocab_size=120, **(uniter.MU | more))
    with pytest.raises(ValueError, match=words):
      shapes(bad)
