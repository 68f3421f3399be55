"""VideoBERT: layout of rows, restricted losses, frozen tokens, its start, learning."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import filled
from tests.reference import pairs_nce as reference
from vlp_jax import cluster_tree, evaluate, importers, optim, sharding
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.evaluators import zero_shot_template
from vlp_jax.importers import bert as bert_importer
from vlp_jax.importers import videobert as importer
from vlp_jax.models import bert, videobert
from vlp_jax.objectives import videobert as objectives
from vlp_jax.towers import bert as tower
from vlp_jax.vocab import Vocab

VOCAB = Vocab(
  40, cls_id=1, sep_id=2, mask_id=3, special_ids=(0, 1, 2, 3), valid_range=(4, 40)
)
KEY, TOKENS = jax.random.key(5), 16
BASE = Vocab(
  30_522, cls_id=101, sep_id=102, mask_id=103, special_ids=(0, 101, 102, 103)
)


def model(**more):
  return videobert.Model(vocab=VOCAB, **(videobert.MU | more))


def count(model):
  return sum(int(np.prod(x)) for x in importers.shapes(model).values())


def test_parameter_counts_are_berts_and_the_tokens():
  make = lambda v: videobert.Model(vocab=BASE, **videobert.VARIANTS[v])
  tokens = 20_736 * 1024 + 20_736  # the table, and its bias in the head
  # [>] is one word more; base projects 1024 to 768.
  assert count(make("base")) == 110_106_428 + 768 + tokens + 1024 * 768 + 768
  assert count(make("large")) == 336_226_108 + 1024 + tokens


@pytest.fixture(scope="module")
def small():
  m = model(dropout=0.0)
  # At N(0, 0.02) narrow nets hardly react: make what is tested visible.
  variables = filled.variables(m)
  return m, variables, jax.jit(m.apply)


def rows(count=6, length=8, clips=5, seed=0):
  rng = np.random.default_rng(seed)
  size = rng.integers(4, length + 1, (count, 1))
  place = np.arange(length)
  ids = rng.integers(4, 40, (count, length))
  ids[:, 0] = 1
  ids = np.where(place == size - 1, 2, ids)
  seen = np.arange(clips) < rng.integers(2, clips + 1, (count, 1))
  out = {
    "text_ids": np.where(place < size, ids, 0).astype(np.int32),
    "text_mask": place < size,
    "clips_tokens": rng.integers(0, TOKENS, (count, clips)).astype(np.int32),
    "clips_mask": seen,
    "example_id": np.arange(count, dtype=np.int32),
    "group_id": (np.arange(count, dtype=np.int32) // 2),
  }
  return {k: jnp.asarray(x) for k, x in out.items()}


def shown(batch, **more):
  keys = ("text_ids", "text_mask", "clips_tokens", "clips_mask")
  out = {k: batch[k] for k in keys if k in batch}
  at = {"mlm_positions": jnp.ones((len(batch["example_id"]), 2), jnp.int32)}
  at["mvm_positions"] = at["mlm_positions"] * 0
  return out | at | more


def test_padding_changes_nothing(small):
  _, variables, run = small
  batch = shown(rows())
  out = run(variables, batch)
  other = batch | {
    "text_ids": jnp.where(batch["text_mask"], batch["text_ids"], 9),
    "clips_tokens": jnp.where(batch["clips_mask"], batch["clips_tokens"], 3),
  }
  got = run(variables, other)
  for name in ("text", "video", "pooled", "mlm_logits", "mvm_logits", "align_logits"):
    np.testing.assert_allclose(got[name], out[name], atol=1e-5, err_msg=name)
  pad = lambda x: jnp.pad(x, ((0, 0), (0, 3)))  # another rung
  keys = ("text_ids", "text_mask", "clips_tokens", "clips_mask")
  longer = batch | {k: pad(batch[k]) for k in keys}
  got = jax.jit(model().apply)(variables, longer)
  np.testing.assert_allclose(got["pooled"], out["pooled"], atol=1e-5)
  np.testing.assert_allclose(got["video"][:, :5], out["video"], atol=1e-5)


def test_a_row_is_cls_words_pointer_tokens_sep(small):
  """The same row laid out by hand as one text of BERT's network over both tables."""
  _, variables, run = small
  p = variables["params"]
  batch = shown(rows())
  out = run(variables, batch)
  words = np.asarray(batch["text_ids"])[0][np.asarray(batch["text_mask"])[0]]
  tokens = np.asarray(batch["clips_tokens"])[0][np.asarray(batch["clips_mask"])[0]]
  table = np.asarray(p["video_tokens"] @ p["project"]["kernel"] + p["project"]["bias"])
  ids = [1, *words[1:-1], 40, *(41 + tokens), 2]  # joint ids: [>] is V, then tokens
  joint = np.concatenate([p["embed_text"]["words"], table])
  types = [0] * len(words) + [1] * (len(tokens) + 1)
  kept = {k: p["embed_text"][k] for k in ("positions", "types", "norm")}
  params = {
    "embed": kept | {"words": joint},
    "encoder": p["encoder"]["stack"],
    "pooler": p["pooler"]["dense"],
  }
  net = tower.Bert(len(joint), **bert.VARIANTS["mu"])
  given = jnp.array([ids]), jnp.ones((1, len(ids)), bool)
  want = net.apply({"params": params}, *given, types=jnp.array([types]))
  np.testing.assert_allclose(out["pooled"][:1], want.pooled, atol=1e-5)
  n = len(words)
  got = np.asarray(out["text"])[0, :n], np.asarray(out["video"])[0, : len(tokens)]
  np.testing.assert_allclose(got[0], want.x[0, :n], atol=1e-5)
  np.testing.assert_allclose(got[1], want.x[0, n:-1], atol=1e-5)


def test_rows_of_one_modality(small):
  _, variables, run = small
  batch = shown(rows())
  text = {k: x for k, x in batch.items() if not k.startswith(("clips_", "mvm_"))}
  video = {k: x for k, x in batch.items() if not k.startswith(("text_", "mlm_"))}
  only = {k: run(variables, b) for k, b in (("text", text), ("video", video))}
  assert "video" not in only["text"]
  assert "text" not in only["video"]
  none = {
    "video": batch | {"text_mask": jnp.zeros_like(batch["text_mask"])},
    "text": batch | {"clips_mask": jnp.zeros_like(batch["clips_mask"])},
  }
  for name in ("text", "video"):
    got = run(variables, none[name])  # the same rows in a mixed batch
    for key in (name, "pooled"):
      np.testing.assert_allclose(got[key], only[name][key], atol=1e-5)


# ----- objectives


def fake(variables, batch, *, rng=None, train=False, method=None):
  """A model without layers: what it says depends on the row and on its parameter."""
  w = variables["params"]["w"]
  row = batch["example_id"][:, None, None] + 1.0
  say = lambda at, n: jnp.sin(row * (at[..., None] + 1.0) * jnp.arange(1, n + 1)) * w
  out = {"align_logits": say(row[:, 0] * 0, 2)[:, 0]}
  for name, n in (("mlm", VOCAB.size), ("mvm", TOKENS)):
    if f"{name}_positions" in batch:
      out[f"{name}_logits"] = say(batch[f"{name}_positions"], n)
  return out, {}


FAKE = {"params": {"w": jnp.float32(1.3)}}


def spied(name, **given):
  """A compiled objective: (batch that the model was given, outputs, terms, metrics)."""
  seen = {}

  def apply(variables, batch, **hyper):
    seen["batch"], seen["out"] = dict(batch), fake(variables, batch, **hyper)[0]
    return seen["out"], {}

  def run(batch):
    terms, aux, _ = getattr(objectives, name)(apply, FAKE, batch, KEY, **given)
    return seen["batch"], seen["out"], terms, aux

  return jax.jit(run)


JOINT = dict(vocab=VOCAB, num_tokens=TOKENS)


@pytest.fixture(scope="module")
def joint():
  return spied("joint", **JOINT)


def test_the_joint_loss_agrees_with_the_oracle(joint):
  batch = rows() | {"example_mask": jnp.arange(6) != 5}
  given, out, terms, aux = joint(batch)
  real = np.asarray(batch["example_mask"])
  match = np.asarray(given["match"])
  want = reference.restricted(
    np.asarray(out["align_logits"])[:, None], 1 - match[:, None], real[:, None]
  )
  np.testing.assert_allclose(terms["align"].value, want, rtol=1e-5)
  # Masked tokens: what was there, out of the tokens alone; the words likewise.
  before, after = np.asarray(batch["clips_tokens"]), np.asarray(given["clips_tokens"])
  key = jax.random.split(jax.random.fold_in(KEY, 1))[1]
  fn = functools.partial(objectives.mask_tokens, num_tokens=TOKENS, rate=0.15)
  _, target, where, _ = fn(batch, key, max_masked=20)
  where = np.asarray(where)
  assert (before != after)[where.any(1)].sum() > 0
  assert not (
    where
    & ~np.take_along_axis(
      np.asarray(batch["clips_mask"]), np.asarray(given["mvm_positions"]), axis=1
    )
  ).any()
  assert out["mvm_logits"].shape[-1] == TOKENS
  assert out["mlm_logits"].shape[-1] == VOCAB.size
  want = reference.restricted(np.asarray(out["mvm_logits"]), np.asarray(target), where)
  np.testing.assert_allclose(terms["mvm"].value, want, rtol=1e-5)
  assert set(aux) >= {"align/accuracy", "mlm/accuracy", "mvm/accuracy"}


def test_masks_keep_to_their_modality_and_example():
  batch = rows(400, length=8, clips=12)
  fn = functools.partial(
    objectives.mask_tokens, num_tokens=TOKENS, rate=0.15, max_masked=12
  )
  run = jax.jit(fn)
  new, target, where, _ = run(batch, KEY)
  seen = np.asarray(batch["clips_mask"])
  before, after = np.asarray(batch["clips_tokens"]), np.asarray(new["clips_tokens"])
  assert (after[~seen] == before[~seen]).all()
  assert set(np.unique(after)) <= set(range(TOKENS + 1))
  share = np.asarray(where).sum() / seen.sum()
  forced = (0.85 ** seen.sum(1)).sum() / seen.sum()  # one where none was drawn
  assert abs(share - 0.15 - forced) < 0.02
  became = np.take_along_axis(after, np.asarray(new["mvm_positions"]), axis=1)
  became, was = became[np.asarray(where)], np.asarray(target)[np.asarray(where)]
  hidden = (became == TOKENS).mean()
  assert 0.78 < hidden < 0.92
  assert (became[became != TOKENS] != was[became != TOKENS]).any()
  at = np.array([7, 300])
  part = {k: x[at] for k, x in batch.items()}
  assert (run(part, KEY)[0]["clips_tokens"] == after[at]).all()


def test_negatives_come_from_other_videos(joint):
  batch = rows(64)
  swapped = jax.jit(objectives.swap)(batch, KEY)
  ids, match = np.asarray(swapped["text_ids"]), np.asarray(swapped["match"])
  own, group = np.asarray(batch["text_ids"]), np.asarray(batch["group_id"])
  assert 16 < (match == 0).sum() < 48
  for i in range(64):
    source = [j for j in range(64) if (own[j] == ids[i]).all()]
    assert (i in source) if match[i] else any(group[j] != group[i] for j in source)
  assert set(swapped) == {*batch, "match"}
  # Prepared or not, the pairs are those of `prepare`.
  assert (np.asarray(joint(rows())[0]["match"]) >= 0).all()
  given = joint(rows() | {"match": jnp.zeros(6, jnp.int32)})[0]
  assert not np.asarray(given["match"]).any()


def test_negatives_may_stay_out_of_the_masked_losses():
  batch = rows() | {"match": jnp.array([1, 0, 1, 0, 0, 1])}
  run = spied("joint", masked_on_negatives=False, **JOINT)
  part = {k: x[np.array([0, 2, 5])] for k, x in batch.items()}
  few, whole = run(part)[2], run(batch)[2]
  for name in ("mlm", "mvm"):
    np.testing.assert_allclose(whole[name].total, few[name].total, rtol=1e-5)
    assert whole[name].weight == few[name].weight > 0
  assert whole["align"].weight == 6


def test_regimes_read_their_own_streams():
  batch = rows()
  given, _, terms, _ = spied("text", vocab=VOCAB)(batch)
  assert not [k for k in given if k.startswith("clips_")]
  assert set(terms) == {"mlm"}
  given, _, terms, _ = spied("video", num_tokens=TOKENS)(batch)
  assert not [k for k in given if k.startswith("text_")]
  assert set(terms) == {"mvm"}
  empty = batch | {"clips_mask": jnp.zeros_like(batch["clips_mask"])}
  term = spied("video", num_tokens=TOKENS)(empty)[2]["mvm"]
  assert term.weight == 0
  assert term.value == 0
  with pytest.raises(ValueError, match="16 of them"):
    spied("video", num_tokens=12)(batch)


def test_microbatches_add_up_once_the_pairs_are_made(joint):
  batch = objectives.swap(rows(), KEY)
  whole = joint(batch)[2]
  parts = [joint({k: x[i : i + 2] for k, x in batch.items()})[2] for i in (0, 2, 4)]
  for name, term in whole.items():
    np.testing.assert_allclose(sum(p[name].weight for p in parts), term.weight)
    np.testing.assert_allclose(sum(p[name].total for p in parts), term.total, rtol=1e-5)


# ----- training


def trained(steps, *, groups, batches):
  """The model, its first parameters, and its state after steps of the joint regime."""
  m = model(dropout=0.0, depth=1)
  variables = filled.variables(m, spread=0.16)  # it is narrow
  mesh = sharding.mesh(None, jax.devices()[:1])
  given = dict(name="adamw", lr=2e-3, total_steps=1000, schedule="constant")
  tx_of = lambda p: optim.build(p, groups=groups, **given)
  make, _, shardings, tx = state_lib.init(m, tx_of, mesh)
  state = evaluate.place(make(), variables, shardings)
  fn = functools.partial(objectives.joint, rate=0.4, masked_on_negatives=False, **JOINT)
  fn.prepare = objectives.swap
  where = dict(mesh=mesh, shardings=shardings)
  step = step_lib.build(fn, apply=state_lib.make_apply(m), tx=tx, **where)
  for n in range(steps):
    state, means = step(state, sharding.put(batches(n), mesh), jax.random.key(0))
  assert np.isfinite(float(means["loss"].value))
  return m, variables["params"], nn.unbox(state.params)


FREEZE = ((r"video_tokens$", dict(freeze=True)), (r".*", dict(wd=0.1)))


def world(rows, seed):
  """The text names the thing that the video shows: word 4 + a, tokens about 4 a."""
  rng = np.random.default_rng(seed)
  thing = rng.integers(0, 4, rows)
  tokens = thing[:, None] * 4 + rng.integers(0, 4, (rows, 4))
  word = 4 + thing
  filler = rng.integers(20, 24, rows)
  ids = np.stack([np.full(rows, 1), filler, word, np.full(rows, 2)], axis=1)
  return {
    "text_ids": ids.astype(np.int32),
    "text_mask": np.ones(ids.shape, bool),
    "clips_tokens": tokens.astype(np.int32),
    "clips_mask": np.ones(tokens.shape, bool),
    "label_thing": thing.astype(np.int32),
    "example_id": np.arange(rows, dtype=np.int32) + 1000 * seed,
    "group_id": np.arange(rows, dtype=np.int32),
  }


def test_gaps_are_filled_by_what_the_video_shows():
  """And the frozen tokens stay bit for bit what they were, under weight decay."""
  m, before, after = trained(120, groups=FREEZE, batches=lambda n: world(32, n))
  np.testing.assert_array_equal(after["video_tokens"], before["video_tokens"])
  moved = after["project"]["kernel"] - before["project"]["kernel"]
  assert np.abs(moved).max() > 1e-3
  names = [f"word{i}" for i in range(40)]
  words = tuple(names[4:8])
  evaluator = zero_shot_template.Evaluator(
    state_lib.make_apply(m),
    [world(64, 7)],
    template="word21 [MASK]",
    candidates=(("thing", words),),
    labels=("label_thing",),
    tokens=names,
    ks=(1, 2),
    vocab=VOCAB,
  )
  found = dict(evaluator.run({"params": after}))
  assert found["thing@1"].chance == 0.25
  assert found["thing@1"].value > 0.8 > 2 * found["thing@1_prior"].value


# ----- start, captions


def test_it_starts_from_bert_and_the_tree(small, tmp_path):
  net = bert.Model(vocab_size=40, **bert.VARIANTS["mu"])
  torch = bert_importer.export(filled.variables(net))
  rng = np.random.default_rng(0)
  levels = tuple(rng.gamma(1, 1, (4,) * i + (24,)).astype(np.float32) for i in (1, 2))
  tree = cluster_tree.Tree(levels, tuple(np.ones(x.shape[:-1], bool) for x in levels))
  tree.save(tmp_path / "tree.npz")
  at = str(tmp_path / "tree.npz")
  variables, report = importer.convert(torch, model(), tokens=at)
  parts = {k.split("/")[0] for k in report.missing}
  assert parts == {"project", "mlm_head"}
  p = variables["params"]
  np.testing.assert_array_equal(p["video_tokens"], tree.leaves())
  np.testing.assert_array_equal(
    p["embed_text"]["words"][:40], torch["bert.embeddings.word_embeddings.weight"]
  )
  assert p["embed_text"]["words"].shape == (41, 32)
  np.testing.assert_array_equal(
    p["align_head"]["dense"]["kernel"], torch["cls.seq_relationship.weight"].T
  )
  scaled, _ = importer.convert(torch, model(), tokens=at, scale="words")
  table = scaled["params"]["video_tokens"]
  np.testing.assert_allclose(
    table.std(), p["embed_text"]["words"][:40].std(), rtol=0.05
  )
  np.testing.assert_allclose(table.mean(axis=0), 0, atol=1e-6)
  # The tree alone.
  alone, report = importer.convert(dict(np.load(at)), model())
  assert set(alone["params"]) == {"video_tokens"}
  assert report.loaded == ("video_tokens",)
  with pytest.raises(ValueError, match="16 leaves of width 24"):
    importer.convert(torch, model(num_tokens=12), tokens=at)


def test_caption_features(small):
  m, variables, run = small
  batch, template = (
    rows(),
    (1, 5, 3, 6, 3, 7, 8, 2),
  )  # [CLS] w [MASK] w [MASK] w w [SEP]
  ids = jnp.broadcast_to(jnp.array(template), (6, 8))
  out = run(variables, shown(batch, text_ids=ids, text_mask=jnp.ones(ids.shape, bool)))
  words = np.asarray(out["text"])[:, [2, 4]].mean(axis=1)
  where = np.asarray(batch["clips_mask"])[..., None]
  video = np.asarray(out["video"]).sum(axis=1) / where.sum(axis=1)
  raw = np.asarray(jax.random.normal(KEY, (6, 5, 7)))
  mean = (raw * where).sum(axis=1) / where.sum(axis=1)
  given = {k: batch[k] for k in ("clips_tokens", "clips_mask")} | {
    "clips_features": raw
  }
  net = model(template=template, dropout=0.0)
  fn = jax.jit(functools.partial(net.apply, method="caption_features"))
  got = fn(variables, given)["caption_features"]
  np.testing.assert_allclose(
    got, np.concatenate([video, words, mean], axis=1), atol=1e-5
  )
  with pytest.raises(ValueError, match=r"model\.template"):
    m.apply(variables, given, method="caption_features")


def test_bad_input_is_told(small):
  m, variables, run = small
  batch = rows(2, length=32, clips=32)
  with pytest.raises(ValueError, match="65 tokens is beyond the 64 positions"):
    m.apply(variables, {k: batch[k] for k in batch if k[-3:] != "_id"})
  with pytest.raises(ValueError, match="wordpiece"):
    videobert.Model(vocab=Vocab(9), **videobert.MU).init(KEY, shown(rows()))
  bad = shown(rows()) | {"clips_tokens": jnp.full((6, 5), TOKENS + 1, jnp.int32)}
  assert np.isnan(np.asarray(run(variables, bad)["video"])).any()


def test_templates_are_checked():
  make = functools.partial(
    zero_shot_template.Evaluator,
    None,
    [],
    vocab=VOCAB,
    tokens=[f"word{i}" for i in range(40)],
  )
  with pytest.raises(ValueError, match="no token of the vocabulary"):
    make(template="[MASK] onion", candidates=(("a", ("word5",)),), labels=("label_a",))
  with pytest.raises(ValueError, match="2 \\[MASK\\]s"):
    make(template="[MASK] [MASK]", candidates=(("a", ("word5",)),), labels=("label_a",))
  with pytest.raises(ValueError, match="39 tokens"):
    make(tokens=["x"] * 39, candidates=(), labels=())


def test_scores_of_several_right_classes():
  """By hand: 3 candidates, classes 0 and 2 right in one clip, 1 in the other."""

  def apply(variables, batch, *, rng=None, train=False, method=None):
    if "clips_tokens" not in batch:
      return {"mlm_logits": jnp.zeros((1, 1, 40))}, {}
    score = jnp.array([[2.0, 1.0, 0.0], [2.0, 1.0, 0.0]])
    return {"mlm_logits": jnp.zeros((2, 1, 40)).at[:, 0, 5:8].set(score)}, {}

  label = np.array([[1, 0, 1], [0, 1, 0]], np.int32)
  batch = {"clips_tokens": np.zeros((2, 1), np.int32), "label": label}
  evaluator = zero_shot_template.Evaluator(
    apply,
    [batch],
    template="[MASK]",
    ks=(1, 2),
    vocab=VOCAB,
    labels=("label",),
    candidates=(("verb", ("word5", "word6", "word7")),),
    tokens=[f"word{i}" for i in range(40)],
  )
  found = dict(evaluator.run({}))
  assert found["verb@1"].value == 0.5
  assert found["verb@2"].value == 1.0
  assert found["verb@1_prior"].value == 0.0  # all tie: against us
  np.testing.assert_allclose(found["verb@1"].chance, (2 / 3 + 1 / 3) / 2)
  np.testing.assert_allclose(found["verb@2"].chance, (1 + 2 / 3) / 2)


def test_one_word_for_several_classes():
  def apply(variables, batch, *, rng=None, train=False, method=None):
    rows = len(batch["text_ids"])
    return {"mlm_logits": jnp.zeros((rows, 1, 40)).at[:, 0, 5].set(1.0)}, {}

  clips, label = np.zeros((3, 1), np.int32), np.array([0, 1, 2], np.int32)
  evaluator = zero_shot_template.Evaluator(
    apply,
    [{"clips_tokens": clips, "label": label}],
    template="[MASK]",
    ks=(1,),
    vocab=VOCAB,
    labels=("label",),
    candidates=(("verb", ("word5", "word5", "word6")),),
    tokens=[f"word{i}" for i in range(40)],
  )
  found = dict(evaluator.run({}))["verb@1"]
  assert found.value == pytest.approx(2 / 3)  # classes 0 and 1
  assert found.chance == 0.5  # of two words
