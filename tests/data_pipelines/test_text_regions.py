"""Answers, labels, second images and tags: users' files to training steps."""

import json

import jax
import numpy as np
import optax
import pytest

from data_pipelines import batches, index, vocabularies
from data_pipelines.prepare import image_text, nlvr2, vqa
from data_pipelines.readers import regions
from tests import region_files
from vlp_jax import batch as contract
from vlp_jax import errors, sharding
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.models import uniter
from vlp_jax.objectives import answer

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", "thing", "##1")
TOKENS += tuple(f"kind{k}" for k in range(1, region_files.CLASSES))
TOKENS += tuple(sorted({w for c in region_files.CAPTIONS for w in c.split()}))
PICTURES = region_files.PICTURES
FIELDS = {"features", "boxes", "mask"}


@pytest.fixture(autouse=True)
def closed():
  """An LMDB may be open once a process."""
  regions.open_reader.cache_clear()


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Vocabulary, questions, answers and captions, as they are published."""
  root = tmp_path_factory.mktemp("files")
  (root / "vocab.txt").write_text("".join(f"{t}\n" for t in TOKENS))
  names = "".join(f"kind{k}\n" for k in range(1, region_files.CLASSES))
  (root / "objects.txt").write_text(names)
  asked, told, coco = [], [], {"images": [], "annotations": []}
  answers = [["red"] * 10, ["red"] * 2 + ["blue"] * 8, ["rare"] * 10, ["blue"] * 10]
  for k, p in enumerate(PICTURES):
    text = region_files.CAPTIONS[k]
    asked.append({"question_id": k, "image_id": p.number, "question": text})
    told.append({"question_id": k, "answers": [{"answer": a} for a in answers[k]]})
    coco["images"].append({"id": p.number, "file_name": f"COCO_x_{p.number:012d}.jpg"})
    coco["annotations"].append({"id": k, "image_id": p.number, "caption": text})
  name = "v2_{}mscoco_train2014_{}.json"
  parts = {"OpenEnded_": ("questions", asked), "": ("annotations", told)}
  for first, (last, rows) in parts.items():
    (root / name.format(first, last)).write_text(json.dumps({last: rows}))
  (root / "labels.json").write_text('["blue", "red", "green"]')
  (root / "captions_train2014.json").write_text(json.dumps(coco))
  return root


@pytest.fixture(scope="module")
def vocab(root):
  given = {"name": "wordpiece", "file": str(root / "vocab.txt")}
  return vocabularies.build(given)


def stream(out, vocab, split="train", **more):
  given = dict(task="text_regions", dir=str(out), split=split) | more
  made = list(batches.evaluation({"rows": 4} | given, vocab=vocab))
  for batch in made:
    contract.check(batch)
  return made


def fields_of(batch, name="regions"):
  return {k.partition("_")[2] for k in batch if k.partition("_")[0] == name}


def stepped(model, objective, batch):
  """(loss before, loss after a step) with the batch's own rows."""
  mesh = sharding.mesh(None, jax.devices()[:1])
  make, _, placed, tx = state_lib.init(model, lambda _: optax.sgd(0.1), mesh)
  apply = state_lib.make_apply(model)
  step = step_lib.build(objective, apply=apply, tx=tx, mesh=mesh, shardings=placed)
  placed, state, losses = sharding.put(batch, mesh), make(), []
  for _ in range(2):
    state, means = step(state, placed, jax.random.key(0))
    losses.append(float(means["loss"].value))
  assert int(state.step) == 2
  assert int(state.skipped) == 0
  return losses


def mu(vocab, **more):
  variant = uniter.VARIANTS["mu"] | {"dropout": 0.0}
  return uniter.Model(vocab_size=vocab.spec.size, **variant, **more)


def test_vqa_from_users_files_to_a_step(root, vocab, tmp_path):
  kind, path, _, _ = region_files.write("bua_tsv", tmp_path / "source")
  out = tmp_path / "out"
  info = vqa.prepare(
    path,
    out,
    regions_format=kind,
    questions=str(root / "v2_OpenEnded_mscoco_train2014_questions.json"),
    answers_file=str(root / "labels.json"),
    vocab_file=str(root / "vocab.txt"),
    quiet=True,
  )
  assert info["regions_fields"] == ["features", "boxes"]
  (batch,) = stream(out, vocab)
  assert fields_of(batch) == FIELDS  # this format tells no classes, no confidence
  assert set(batch) == {
    *(f"regions_{k}" for k in FIELDS),
    *(f"text_{k}" for k in ("ids", "mask", "types")),
    *("fuse_index", "answers", "example_id", "group_id", "example_mask"),
  }
  texts = [vocab.decode(row) for row in batch["text_ids"]]
  order = [texts.index(c) for c in region_files.CAPTIONS]
  want = [[0, 1, 0], [1, 0.6, 0], [0, 0, 0], [1, 0, 0]]
  np.testing.assert_allclose(batch["answers"][order], want, rtol=1e-6)
  for key in ("objects", "probs"):
    message = f"has no regions/{key}; leave regions_{key} out"
    with pytest.raises(errors.UserError, match=message):
      stream(out, vocab, fields=(f"regions_{key}",))
  trained = next(
    batches.build(
      dict(task="text_regions", dir=str(out), split="train", tokens=128), vocab=vocab
    )
  )
  assert trained["answers"].shape == (len(trained["example_id"]), 3)
  model = mu(vocab, heads=("vqa",), num_answers=info["num_answers"])
  before, after = stepped(model, answer.vqa, batch)
  assert after < before
  packed = batches.build(
    dict(task="text_regions", dir=str(out), split="train", rows=1, pack=48),
    vocab=vocab,
  )
  one = next(packed)
  real = one["example_mask"]
  assert real.sum() >= 2
  for example, score in zip(one["example_id"][real], one["answers"][real], strict=True):
    np.testing.assert_allclose(score, batch["answers"][example], rtol=1e-6)


@pytest.fixture(scope="module")
def pairs(root, tmp_path_factory):
  """NLVR2 of two pairs of images, UNITER's npz files."""
  folder = tmp_path_factory.mktemp("pairs")
  for k, p in enumerate(PICTURES):
    name = f"nlvr2_dev-{k // 2}-0-img{k % 2}.npz"
    (folder / name).write_bytes(region_files.uniter_npz(p))
  rows = [
    {"identifier": f"dev-{k}-0-0", "sentence": text, "label": ("True", "False")[k]}
    for k, text in enumerate(region_files.CAPTIONS[:2])
  ]
  at = folder / "dev.json"
  at.write_text("".join(json.dumps(r) + "\n" for r in rows))
  out = folder / "out"
  own = dict(vocab_file=str(root / "vocab.txt"), probs=True, quiet=True)
  nlvr2.prepare(folder, out, regions_format="npz", statements=f"train={at}", **own)
  return out


def test_nlvr2_has_two_images_and_a_label(pairs, vocab):
  (batch,) = stream(pairs, vocab, rows=2, fields=("regions_probs",))
  assert batch["label"].tolist() == [1, 0]
  assert batch["label_sentence"].tolist() == [0, 1]
  assert "match" not in batch
  assert "fuse_index" not in batch  # the text is encoded with each image
  for name, places in (("regions", (0, 2)), ("regions2", (1, 3))):
    assert fields_of(batch, name) == {*FIELDS, "objects", "conf", "probs"}
    for key in ("features", "objects", "probs"):
      want = np.stack([getattr(PICTURES[k], key) for k in places])
      found = batch[f"{name}_{key}"]
      if key != "objects":
        want = want.astype(np.float16)
      np.testing.assert_allclose(found, want, atol=1e-3)
  assert len(set(batch["group_id"].tolist())) == 2
  made = batches.build(
    dict(task="text_regions", dir=str(pairs), split="train", tokens=512), vocab=vocab
  )
  # 2 (7 + 2) words or 2 (6 + 2), and 3 + 3 regions; rounded up to 8
  text = [2 * (len(c.split()) + 2) + 6 for c in region_files.CAPTIONS[:2]]
  assert {r.length for r in made.rungs} <= {-(-n // 8) * 8 for n in text}
  with pytest.raises(errors.UserError, match="refuses packing"):
    batches.build(
      dict(task="text_regions", dir=str(pairs), split="train", rows=2, pack=64),
      vocab=vocab,
    )


def test_nlvr2_trains_a_step(pairs, vocab):
  (batch,) = stream(pairs, vocab, rows=2)
  model = mu(vocab, heads=("paired_attn",), type_vocab=3)
  before, after = stepped(model, answer.nlvr2, batch)
  assert after < before


def test_a_joint_pair_is_compacted(pairs, vocab):
  (batch,) = stream(pairs, vocab, rows=2, pair="joint")
  masks = [batch[f"{k}_mask"] for k in ("text", "regions", "regions2")]
  both = np.concatenate(masks, axis=1)
  for row, at in zip(both, batch["fuse_index"], strict=True):
    np.testing.assert_array_equal(at[: row.sum()], np.flatnonzero(row))
  model = mu(vocab, heads=("triplet",), type_vocab=3)
  variables = model.init(jax.random.key(0), contract.zeros(model.spec()))
  forward = jax.jit(lambda b: model.apply(variables, b)["label_logits"])
  plain = {k: v for k, v in batch.items() if k != "fuse_index"}
  np.testing.assert_allclose(forward(batch), forward(plain), atol=1e-5)


def test_tags_are_a_stream_or_follow_the_text(root, vocab, tmp_path):
  kind, path, _, _ = region_files.write("vlbert_json", tmp_path / "source")
  out = tmp_path / "out"
  own = dict(vocab_file=str(root / "vocab.txt"), quiet=True, regions_format=kind)
  own["captions"] = str(root / "captions_train2014.json")
  image_text.prepare(path, out, **own, objects_file=str(root / "objects.txt"))
  (batch,) = stream(out, vocab, tags="stream")
  (joined,) = stream(out, vocab, tags="joined", max_tags=2)
  (plain,) = stream(out, vocab)
  assert not fields_of(plain, "tag")
  for k in range(4):
    words = [TOKENS[i] for i in plain["text_ids"][k][plain["text_mask"][k]]]
    at = region_files.CAPTIONS.index(" ".join(words[1:-1]))
    tags = [f"kind{c}" for c in PICTURES[at].objects]
    ids = batch["tag_ids"][k][batch["tag_mask"][k]]
    assert [TOKENS[i] for i in ids] == [*tags, "[SEP]"]
    assert (batch["tag_types"][k][batch["tag_mask"][k]] == 1).all()
    real = joined["text_mask"][k]
    got = [TOKENS[i] for i in joined["text_ids"][k][real]]
    assert got == [*words, *tags[:2], "[SEP]"]
    types = [0] * len(words) + [1] * 3
    assert joined["text_types"][k][real].tolist() == types
  masks = [batch[f"{k}_mask"] for k in ("text", "tag", "regions")]
  both = np.concatenate(masks, axis=1)
  for row, at in zip(both, batch["fuse_index"], strict=True):
    np.testing.assert_array_equal(at[: row.sum()], np.flatnonzero(row))
  image_text.prepare(path, tmp_path / "bare", **own)
  with pytest.raises(errors.UserError, match="prepare it with --objects_file"):
    stream(tmp_path / "bare", vocab, tags="joined")


def test_mistakes_are_told(pairs, vocab):
  for given, message in (
    (dict(pair="both"), "pair='both'. Known: apart, joint"),
    (dict(tags="all"), "tags='all'. Known: none, stream, joined"),
    (dict(max_tags=0), "must be positive"),
    (dict(fields=("regions_prob",)), "Did you mean 'regions_probs'"),
    (dict(tags="stream"), "has none"),
  ):
    with pytest.raises(errors.UserError, match=message):
      stream(pairs, vocab, **given)
  with pytest.raises(errors.UserError, match="needs a vocabulary"):
    stream(pairs, None)
  assert index.read_info(pairs)["regions_fields"][-1] == "probs"
