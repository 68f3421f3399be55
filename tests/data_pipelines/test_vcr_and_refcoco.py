"""VCR, referring expressions and panoramas: users' files to batches, by hand."""

import json
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import batches, index, validate, vocabularies
from data_pipelines.prepare import image_text, refcoco, vcr
from data_pipelines.readers import panorama_tsv, regions
from data_pipelines.tasks import vcr as vcr_task
from tests import region_files
from vlp_jax import batch as contract
from vlp_jax import errors
from vlp_jax.models import uniter
from vlp_jax.objectives import answer

PICTURES, DIM = region_files.PICTURES, region_files.DIM
WORDS = ("why", "is", "person1", "person2", "happy", "sad", "because", "ball", "left")
WORDS += ("the", "one", "two", "three", "four", "red", "box", "?", ".", "and", "a")
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!", *WORDS, "dog3")


@pytest.fixture(autouse=True)
def closed():
  regions.open_reader.cache_clear()


@pytest.fixture(scope="module")
def vocab_file(tmp_path_factory):
  at = tmp_path_factory.mktemp("vocab") / "vocab.txt"
  at.write_text("".join(f"{t}\n" for t in TOKENS))
  return str(at)


@pytest.fixture(scope="module")
def vocab(vocab_file):
  return vocabularies.build({"name": "wordpiece", "file": vocab_file})


def row_batches(out, vocab, task, split="val", rows=4, **more):
  given = dict(task=task, dir=str(out), split=split, rows=rows) | more
  made = list(batches.evaluation(given, vocab=vocab))
  for batch in made:
    contract.check(batch)
  return made


def words_of(batch, k):
  return " ".join(TOKENS[i] for i in batch["text_ids"][k][batch["text_mask"][k]])


def slow_types(parts, separator):
  """Types one token at a time, from the rule in words."""
  names = (0, 2, 3)
  out = [0]
  for k, n in enumerate(parts):
    out += [names[k]] * n
    last = k == len(parts) - 1
    out.append(names[k] if last or separator == "precedes" else names[k + 1])
  return out


@pytest.mark.parametrize("separator", ["follows", "precedes"])
@pytest.mark.parametrize("parts", [(3, 2), (1, 4, 2), (0, 1, 1)])
def test_types_of_parts_and_separators(parts, separator):
  got = vcr_task.types(list(parts), separator)
  assert np.asarray(got).tolist() == slow_types(parts, separator)


@pytest.fixture(scope="module")
def asked(tmp_path_factory, vocab_file):
  """Two questions of one image and one of another; true and detected boxes."""
  root = tmp_path_factory.mktemp("vcr")
  for kind, at in (("gt", (0, 1)), ("det", (2, 3))):
    (root / kind).mkdir()
    for number, k in enumerate(at):
      name = f"vcr_{kind}_val-{number}.npz"
      (root / kind / name).write_bytes(region_files.uniter_npz(PICTURES[k]))
  rows = []
  for k in range(3):
    rows.append(
      {
        "annot_id": f"val-{k}",
        "img_id": f"val-{k // 2}",
        "img_fn": f"lsmdc_3005/3005_00.{k // 2}@0.jpg",
        "objects": ["person", "person", "dog"],
        "question": ["why", "is", [0], "happy", "?"],
        "answer_choices": [[w, "ball", "."] for w in ("one", "two", "three", "four")],
        "rationale_choices": [["because", [1], w] for w in ("red", "box", "sad", "a")],
        "answer_label": k,
        "rationale_label": 3 - k,
      }
    )
  del rows[2]["answer_label"], rows[2]["rationale_label"]  # as in the test set
  at = root / "val.jsonl"
  at.write_text("".join(json.dumps(r) + "\n" for r in rows))
  out = root / "out"
  info = vcr.prepare(
    root,
    out,
    regions_format="npz",
    regions="det",
    true_regions="gt",
    questions="val=val.jsonl",
    vocab_file=vocab_file,
    quiet=True,
  )
  assert info["regions_fields"] == ["features", "boxes", "objects", "conf"]
  return root, out


QUESTION = "[CLS] why is person1 happy ? [SEP]"


def test_vcr_is_a_row_a_choice(asked, vocab):
  _, out = asked
  assert validate.run(out, quiet=True)[1] == []
  rows = row_batches(out, vocab, "vcr", rows=20)[0]
  real = rows["example_mask"]
  assert real.sum() == 20  # two questions with eight choices, one with four
  assert rows["example_id"][real].tolist() == list(range(20))
  texts = [words_of(rows, k) for k in range(20)]
  assert texts[0] == f"{QUESTION} one ball . [SEP]"
  assert texts[4] == f"{QUESTION} one ball . [SEP] because person2 red [SEP]"
  assert texts[12 + 3] == f"{QUESTION} two ball . [SEP] because person2 a [SEP]"
  assert rows["label"].tolist() == [
    *(1, 0, 0, 0, 0, 0, 0, 1),
    *(0, 1, 0, 0, 0, 0, 1, 0),
    *(-1,) * 4,
  ]
  assert rows["group_id"].tolist() == [*[0] * 4, *[1] * 4, *[2] * 4, *[3] * 4, *[4] * 4]
  assert rows["label_choice"].tolist() == [0, 1, 2, 3] * 5
  assert rows["label_answer"][:8].tolist() == [-1] * 4 + [0] * 4
  for k in (0, 4):
    size = rows["text_mask"][k].sum()
    want = slow_types((5, 3) if k == 0 else (5, 3, 3), "follows")
    assert rows["text_types"][k][:size].tolist() == want
  # the true boxes first, then the detected ones
  want = np.concatenate([PICTURES[0].features, PICTURES[2].features])
  found = rows["regions_features"][0][rows["regions_mask"][0]]
  np.testing.assert_array_equal(found, want.astype(np.float16))
  want = np.concatenate([PICTURES[1].objects, PICTURES[3].objects])
  assert rows["regions_objects"][16][rows["regions_mask"][16]].tolist() == want.tolist()
  both = np.concatenate([rows["text_mask"], rows["regions_mask"]], axis=1)
  for row, at in zip(both, rows["fuse_index"], strict=True):
    np.testing.assert_array_equal(at[: row.sum()], np.flatnonzero(row))


def test_vcr_of_all_answers_and_cut_rows(asked, vocab):
  _, out = asked
  given = dict(kinds=("qar",), given="all", separator="precedes", where=dict(label=1))
  (rows,) = row_batches(out, vocab, "vcr", rows=16, **given)
  assert rows["example_mask"].all()
  assert rows["label_answer"].tolist() == [a for a in range(4) for _ in range(4)]
  assert words_of(rows, 5) == f"{QUESTION} two ball . [SEP] because person2 box [SEP]"
  size = rows["text_mask"][0].sum()
  want = slow_types((5, 3, 3), "precedes")
  assert rows["text_types"][0][:size].tolist() == want
  (short,) = row_batches(
    out, vocab, "vcr", rows=4, kinds=("qa",), max_tokens=9, where=dict(label=0)
  )
  assert words_of(short, 0) == f"{QUESTION} one [SEP]"
  given = dict(task="vcr", dir=str(out), split="val", rows=4)
  with pytest.raises(errors.UserError, match="no example of 3 passes"):
    batches.build(given | dict(max_tokens=8), vocab=vocab)
  for bad, message in (
    (dict(kinds=("qb",)), r"kinds=\('qb',\)"),
    (dict(max_tokens=2), "at least 8"),
    (dict(fields=("regions_probs",)), "has no regions/probs"),
  ):
    with pytest.raises(errors.UserError, match=message):
      row_batches(out, vocab, "vcr", **bad)
  with pytest.raises(errors.UserError, match="is for evaluation"):
    batches.build(given | dict(given="all"), vocab=vocab)


def loss_of(vocab, objective, batch, **more):
  """Loss and gradient of UNITER's head on a batch."""
  variant = uniter.VARIANTS["mu"] | {"dropout": 0.0, "depth": 1}
  model = uniter.Model(vocab_size=vocab.spec.size, **variant, **more)
  variables = model.init(jax.random.key(0), contract.zeros(model.spec()))
  batch = {k: jnp.asarray(v) for k, v in batch.items()}

  def apply(variables, batch, *, rng=None, train=False, method=None):
    del rng, train, method
    return model.apply(variables, batch), {}

  def loss(params):
    terms, _, _ = objective(apply, {"params": params}, batch, jax.random.key(1))
    return sum(t.value for t in terms.values())

  value, grads = jax.jit(jax.value_and_grad(loss))(variables["params"])
  norm = sum(float((g**2).sum()) for g in jax.tree.leaves(grads))
  assert np.isfinite(norm)
  assert norm > 0
  return float(value)


def test_vcr_and_refer_give_gradients(asked, referred, vocab):
  (rows,) = row_batches(asked[1], vocab, "vcr", rows=20)
  more = dict(heads=("vcr",), type_vocab=4)
  assert loss_of(vocab, answer.vcr, rows, **more) == pytest.approx(np.log(2), abs=0.3)
  (rows,) = row_batches(referred, vocab, "text_regions", split="val", rows=3)
  value = loss_of(vocab, answer.refer, rows, heads=("refer",))
  assert value == pytest.approx(np.log(3), abs=0.4)


def test_vcr_without_an_image(asked, tmp_path, vocab_file):
  root, _ = asked
  own = dict(regions_format="npz", vocab_file=vocab_file, quiet=True)
  own["questions"] = f"val={root / 'val.jsonl'}"
  (tmp_path / "one").mkdir()
  name = "vcr_det_val-0.npz"
  (tmp_path / "one" / name).write_bytes((root / "det" / name).read_bytes())
  info = vcr.prepare(tmp_path / "one", tmp_path / "a", skip_missing=True, **own)
  assert info["splits"]["val"]["num_examples"] == 2
  assert info["left_out"]["val"] == {"no_regions": 1, "no_text": 0}
  info = vcr.prepare(tmp_path / "one", tmp_path / "b", **own)
  assert info["splits"]["val"]["bad_records"] == 1
  other = tmp_path / "other"
  other.mkdir()
  (other / "7.npz").write_bytes((root / "det" / name).read_bytes())
  with pytest.raises(errors.UserError, match="no question finds its image"):
    vcr.prepare(other, tmp_path / "c", **own)
  with pytest.raises(errors.UserError, match="true_regions without regions"):
    vcr.prepare(root, tmp_path / "d", true_regions="gt", **own)


@pytest.fixture(scope="module")
def referred(tmp_path_factory, vocab_file):
  """RefCOCO of two images: boxes as x y w h in pixels, refs as a pickle."""
  root = tmp_path_factory.mktemp("refcoco")
  kind, path, _, _ = region_files.write("bua_tsv", root / "features")
  found = {"images": [], "annotations": []}
  refs = []
  for k, p in enumerate(PICTURES[:2]):
    found["images"].append({"id": p.number, "width": p.width, "height": p.height})
    for n, box in enumerate(p.boxes.tolist()):
      x1, y1, x2, y2 = box
      shift = 1 if n == 0 else 0  # people do not draw as the detector does
      wide = [x1 + shift, y1, x2 - x1, y2 - y1]
      found["annotations"].append({"id": 10 * k + n, "bbox": wide})
    refs.append(
      {
        "ref_id": k,
        "ann_id": 10 * k + 2 * k,
        "image_id": p.number,
        "split": "val",
        "sentences": [
          {"sent_id": 5 * k + s, "sent": "the red ball"} for s in range(k + 1)
        ],
      }
    )
  folder = root / "refcoco"
  folder.mkdir()
  (folder / "instances.json").write_text(json.dumps(found))
  (folder / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
  out = root / "out"
  refcoco.prepare(
    root,
    out,
    regions_format=kind,
    regions=str(path),
    expressions="refcoco",
    vocab_file=vocab_file,
    quiet=True,
  )
  return out


def test_expressions_find_their_region(referred, vocab):
  (rows,) = row_batches(referred, vocab, "text_regions", rows=3)
  assert rows["label"].tolist() == [0, 2, 2]  # the place in the region file
  assert validate.run(referred, quiet=True)[1] == []
  first = np.array([21, 10, 121, 60]) / [200, 100, 200, 100]
  np.testing.assert_allclose(rows["label_box"][0], first, atol=1e-6)
  np.testing.assert_allclose(rows["label_box"][1], [0.25, 0.25, 0.5, 0.75], atol=1e-6)
  (one,) = row_batches(referred, vocab, "text_regions", rows=3, max_regions=1)
  assert one["label"].tolist() == [0, -1, -1]  # what is meant is not among them


def test_an_expression_needs_the_size_of_its_image(referred, tmp_path, vocab_file):
  source = referred.parent
  folder = tmp_path / "refs"
  folder.mkdir()
  (folder / "refs(unc).p").write_bytes(
    (source / "refcoco" / "refs(unc).p").read_bytes()
  )
  found = json.loads((source / "refcoco" / "instances.json").read_text())
  del found["images"]
  (folder / "instances.json").write_text(json.dumps(found))
  own = dict(vocab_file=vocab_file, quiet=True, expressions=str(folder))
  info = refcoco.prepare(
    source / "features", tmp_path / "a", regions_format="bua_tsv", **own
  )
  assert info["splits"]["val"]["num_examples"] == 3  # this format tells it
  (tmp_path / "npz").mkdir()
  for p in PICTURES[:2]:
    (tmp_path / "npz" / f"{p.number}.npz").write_bytes(region_files.uniter_npz(p))
  with pytest.raises(errors.DataBudgetError, match="its size is told nowhere"):
    refcoco.prepare(tmp_path / "npz", tmp_path / "b", regions_format="npz", **own)


def panorama_line(p, **other):
  """One viewpoint, column by column as the spec lists them."""
  b64, num = region_files.b64, len(p.features)
  attributes = np.zeros((num, 5), np.float32)
  attributes[np.arange(num), p.attributes] = 0.5
  row = {
    "scanId": "17DRP5sb8fy",
    "viewpointId": f"{p.number:032x}",
    "image_w": p.width,
    "image_h": p.height,
    "vfov": 60,
    "features": b64(p.features),
    "boxes": b64(p.boxes),
    "cls_prob": b64(p.probs),
    "attr_prob": b64(attributes),
    "featureViewIndex": b64(np.arange(num) + 11),
    "featureHeading": b64(np.arange(num) * 0.5),
    "featureElevation": b64(-np.arange(num) * 0.25),
    "viewHeading": b64(np.arange(36) % 12 * np.pi / 6),
    "viewElevation": b64((np.arange(36) // 12 - 1) * np.pi / 6),
  }
  assert list(row) == list(panorama_tsv.COLUMNS)
  return "\t".join(str(v) for v in (row | other).values()) + "\n"


def test_panoramas_of_vln_bert(tmp_path, vocab, vocab_file):
  at = tmp_path / "matterport.tsv"
  at.write_text("".join(panorama_line(p) for p in PICTURES[:2]))
  reader = panorama_tsv.Reader(at)
  name = f"17DRP5sb8fy_{PICTURES[1].number:032x}"
  assert list(reader.places)[1] == name
  found = reader.panorama(name, reader.places[name])
  assert found.view.tolist() == [11, 12, 13]
  np.testing.assert_allclose(found.image.angles, [[0, 0], [0.5, -0.25], [1.0, -0.5]])
  np.testing.assert_allclose(found.heading[:3], [0, np.pi / 6, np.pi / 3], rtol=1e-6)
  np.testing.assert_allclose(found.elevation[::12], [-np.pi / 6, 0, np.pi / 6])
  assert found.vfov == 60
  assert found.image.attributes.tolist() == PICTURES[1].attributes.tolist()
  np.testing.assert_allclose(found.image.probs, PICTURES[1].probs, atol=1e-3)
  told = tmp_path / "texts.jsonl"
  told.write_text(json.dumps({"image": name, "text": "the red box", "split": "train"}))
  own = dict(captions_format="lines", captions=str(told), vocab_file=vocab_file)
  out = tmp_path / "out"
  info = image_text.prepare(at, out, regions_format="panorama_tsv", quiet=True, **own)
  assert info["regions_fields"][-1] == "angles"
  fields = ("regions_angles", "regions_attribute_conf")
  (rows,) = row_batches(out, vocab, "text_regions", "train", rows=1, fields=fields)
  np.testing.assert_allclose(rows["regions_angles"][0], found.image.angles)
  assert rows["regions_attribute_conf"].tolist() == [[0.5] * 3]
  assert index.read_info(out)["region_dim"] == DIM
  assert validate.run(out, quiet=True)[1] == []


@pytest.mark.parametrize(
  ("column", "value", "message"),
  [
    ("featureViewIndex", region_files.b64([1, 2, 36]), "views 1 to 36 of 36"),
    ("featureHeading", region_files.b64([0, np.nan, 0]), "an angle is not finite"),
    ("boxes", region_files.b64(np.zeros(7)), "boxes of 7 numbers"),
    ("viewHeading", region_files.b64(np.zeros(35)), "viewHeading holds 140 bytes"),
    ("attr_prob", region_files.b64(np.zeros(3)), "no classes beside the background"),
    ("vfov", "wide", "vfov b'wide' is no number"),
  ],
)
def test_damaged_panoramas_are_named(tmp_path, column, value, message):
  at = tmp_path / "x.tsv"
  at.write_text(panorama_line(PICTURES[0], **{column: value}))
  reader = panorama_tsv.Reader(at)
  ((name, place),) = reader.places.items()
  with pytest.raises(ValueError, match=message) as caught:
    reader.read(name, place)
  assert name in str(caught.value)
