"""Reading NLVR, its folds, and the prepared text + regions records."""

import io
import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from data_pipelines import index, vocabularies
from data_pipelines.prepare import nlvr as prepare_nlvr
from data_pipelines.prepare import scenes as prepare_scenes
from data_pipelines.readers import nlvr, true_regions
from data_pipelines.synthetic import box_scenes, statements
from tests import helpers
from vlp_jax import errors

COLOURS = {"black": "Black", "blue": "#0099ff", "yellow": "Yellow"}
DIM = 12


def line(identifier, sentence, label, scene):
  boxes = [
    [
      {
        "x_loc": o.x,
        "y_loc": o.y,
        "type": o.shape,
        "color": COLOURS[o.colour],
        "size": o.side,
      }
      for o in box
    ]
    for box in scene.boxes
  ]
  row = {"identifier": identifier, "sentence": sentence, "label": label}
  return {**row, "image": f"dev-{identifier}-0.png", "structured_rep": boxes}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A directory in NLVR's format: 40 groups of two pictures."""
  path, rng, rows = tmp_path_factory.mktemp("nlvr"), np.random.RandomState(0), []
  for group in range(100, 140):
    for k in range(2):
      family = box_scenes.FAMILIES[group % 2]
      scene = box_scenes.random_scene(rng, "", family)
      label = ("true", "false")[(group + k) % 2]
      rows.append(line(f"{group}-{k}", f"Sentence number {group}.", label, scene))
  (path / nlvr.SENTENCES).write_text("".join(json.dumps(r) + "\n" for r in rows))
  return path


@pytest.fixture(scope="module")
def prepared(source, tmp_path_factory):
  out = tmp_path_factory.mktemp("out") / "data"
  keywords = {"num_statements": 120, "num_test": 40, "region_dim": DIM, "quiet": True}
  info = prepare_nlvr.prepare(source, out, **keywords)
  return out, info


def parse(out, split):
  import tensorflow as tf

  kinds = {k: tf.io.FixedLenFeature([], tf.string) for k in ("key", "group", "text")}
  kinds |= {k: tf.io.FixedLenFeature([], tf.int64) for k in ("match", "regions/num")}
  kinds["regions/dim"] = tf.io.FixedLenFeature([], tf.int64)
  arrays = {
    "features": np.float16,
    "boxes": np.float32,
    "objects": np.int32,
    "attributes": np.int32,
    "conf": np.float32,
    "probs": np.float16,
  }
  kinds |= {f"regions/{k}": tf.io.FixedLenFeature([], tf.string) for k in arrays}
  paths = [str(p) for p in index.load(out, split).paths]
  for record in tf.data.TFRecordDataset(paths):
    row, _ = tf.io.parse_single_sequence_example(record, context_features=kinds)
    row = {k: v.numpy() for k, v in row.items()}
    for name, dtype in arrays.items():
      flat = np.frombuffer(row[f"regions/{name}"], dtype)
      row[name] = flat.reshape(row["regions/num"], -1)
    yield row


def test_reading_gives_scenes(tmp_path):
  scene = box_scenes.random_scene(np.random.RandomState(1), "", "scatter")
  row = line("7-3", " A sentence. ", "false", scene)
  (tmp_path / nlvr.SENTENCES).write_text(json.dumps(row) + "\n\n")
  (example,) = nlvr.read(tmp_path)
  assert example.scene.boxes == scene.boxes
  assert (example.sentence, example.match) == ("A sentence.", False)
  assert (example.group, example.scene.name) == ("7", "dev-7-3-0.png")


@pytest.mark.parametrize(
  ("key", "value"),
  [
    ("label", "maybe"),
    ("structured_rep", [[], []]),
    ("structured_rep", [[{"x_loc": 0, "y_loc": 0}], [], []]),
    ("sentence", None),
  ],
)
def test_malformed_rows_are_named(tmp_path, key, value):
  scene = box_scenes.random_scene(np.random.RandomState(1), "", "tower")
  good = line("7-3", "Fine.", "true", scene)
  bad = {**good, key: value}
  path = tmp_path / nlvr.SENTENCES
  path.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
  with pytest.raises(errors.UserError, match="line 2: not an NLVR row"):
    nlvr.read(path)


def test_objects_outside_their_box_are_refused(tmp_path):
  scene = box_scenes.Scene(
    "", tuple(box_scenes.Object("circle", "blue", "big", k, 71, 0) for k in range(3))
  )
  path = tmp_path / nlvr.SENTENCES
  path.write_text(json.dumps(line("7-3", "Fine.", "true", scene)))
  with pytest.raises(errors.UserError, match="x=71"):
    nlvr.read(path)


def test_missing_file_is_named(tmp_path):
  with pytest.raises(errors.UserError, match=r"nlvr_dev\.jsonl is missing"):
    nlvr.read(tmp_path)


def test_folds_part_groups_sentences_and_scenes(source):
  examples = nlvr.read(source)
  twin = examples[0]._replace(identifier="5000-0")  # same sentence, another group
  other = nlvr.fold_of("5000")
  assert other != examples[0].fold
  train, test = nlvr.split([*examples, twin], other)
  assert twin in test
  assert examples[0] not in train  # it shows what a test row shows
  assert examples[0] not in test
  assert not {e.group for e in train} & {e.group for e in test}
  assert not {nlvr.plain(e.sentence) for e in train} & {
    nlvr.plain(e.sentence) for e in test
  }
  assert not {e.scene.contents for e in train} & {e.scene.contents for e in test}
  tests = [e for fold in range(5) for e in nlvr.split(examples, fold)[1]]
  assert sorted(tests) == sorted(examples)
  with pytest.raises(errors.UserError, match="0 to 4"):
    nlvr.split(examples, 5)


def test_prepared_splits(prepared, source):
  out, info = prepared
  train, test = nlvr.split(nlvr.read(source))
  counts = {s: v["num_examples"] for s, v in info["splits"].items()}
  assert counts == {
    "train": len(train) + 120,
    "test": 40,
    "test_real": len(test),
  }
  assert info["kind"] == "regions"
  assert info["classes"]["objects"][0] == "background"
  assert sum(v for k, v in info["statements"]["test"].items() if k != "texts") == 40
  table = index.load(out, "train")
  assert set(table.columns) == {"num_regions", "match", "kind", "real", "group"}
  assert len(table.select({"real": 1})) == len(train)
  assert len(table.select({"real": 0, "match": 1})) == 60
  assert index.load(out, "test").columns["match"].mean() == 0.5
  words = vocabularies.build({"name": "wordpiece", "file": str(out / "vocab.txt")})
  assert words.digest == info["vocab"]["digest"]


def test_records_parse_and_hold_the_contract(prepared, source):
  out, _ = prepared
  pictures = {e.scene.name: e.scene for e in nlvr.read(source)}
  texts, groups = {}, {}
  for split in ("train", "test", "test_real"):
    rows = list(parse(out, split))
    table = index.load(out, split)
    assert [len(r["features"]) for r in rows] == table.columns["num_regions"].tolist()
    assert [r["match"] for r in rows] == table.columns["match"].tolist()
    assert [r["group"].decode() for r in rows] == table.columns["group"].tolist()
    for r in rows:
      assert r["features"].shape == (r["regions/num"], r["regions/dim"])
      assert r["features"].shape[1] == DIM
      assert (r["boxes"].shape[1], r["probs"].shape[1]) == (7, 28)
      scene = pictures[r["group"].decode()]
      want = sorted(true_regions.NLVR.index(o) for o in scene.objects)
      assert sorted(r["objects"][:, 0]) == want
      assert (r["boxes"] >= 0).all()
      assert (r["boxes"] <= 1).all()
    assert len({r["key"] for r in rows}) == len(rows)
    texts[split] = {statements.normal(r["text"].decode()) for r in rows}
    groups[split] = {r["group"] for r in rows}
  assert not texts["train"] & (texts["test"] | texts["test_real"])
  assert not groups["train"] & (groups["test"] | groups["test_real"])
  assert groups["test"] <= groups["test_real"]


def test_a_rerun_changes_nothing(prepared, source):
  out, info = prepared
  keywords = {"num_statements": 120, "num_test": 40, "region_dim": DIM, "quiet": True}
  assert prepare_nlvr.prepare(source, out, **keywords) == info
  with pytest.raises(errors.UserError, match="region_dim 12 -> 8"):
    prepare_nlvr.prepare(source, out, **{**keywords, "region_dim": 8})


def test_bad_numbers_are_refused(source, tmp_path):
  with pytest.raises(errors.UserError, match="even numbers"):
    prepare_nlvr.prepare(source, tmp_path, num_statements=3, quiet=True)
  with pytest.raises(errors.UserError, match="region_dim is at least 1"):
    prepare_scenes.prepare("generated", tmp_path, region_dim=0, quiet=True)
  with pytest.raises(errors.UserError, match="give 'generated'"):
    prepare_scenes.prepare("somewhere", tmp_path, quiet=True)


def test_generated_twin_needs_no_file(tmp_path):
  keywords = {"num_pairs": 60, "num_test": 20, "num_scenes": 60, "region_dim": 8}
  infos = [
    prepare_scenes.prepare("generated", tmp_path / k, quiet=True, **keywords)
    for k in "ab"
  ]
  assert infos[0] == infos[1]
  assert infos[0]["splits"]["train"]["num_examples"] == 60
  (train, test) = (index.load(tmp_path / "a", s).columns for s in ("train", "test"))
  assert not set(train["group"]) & set(test["group"])
  assert test["match"].mean() == 0.5
  pictures = prepare_scenes.random_scenes(60, 0)
  looks = [{s.contents for s in pictures[k]} for k in ("train", "test")]
  assert not looks[0] & looks[1]


def png(data):
  return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_pictures_show_what_the_rows_say():
  source = helpers.shared("data/image_text/nlvr")
  examples = nlvr.read(source)
  assert len(examples) == 989
  assert sum(e.match for e in examples) == 547
  assert nlvr.check_pictures(source, examples[::60], png) > 100
  seen = examples[0].scene
  first = seen.objects[0]
  wrong = seen._replace(objects=(first._replace(colour="blue"),))
  assert first.colour == "black"
  with pytest.raises(errors.UserError, match="at the middle of"):
    nlvr.check_pictures(source, [examples[0]._replace(scene=wrong)], png)
  train, test = nlvr.split(examples)
  assert (len(train), len(test)) == (785, 200)
  with zipfile.ZipFile(source / nlvr.PICTURES) as z:
    pixels = png(z.read(seen.name))
  for k in range(3):  # light boxes of 100 pixels at x = 0, 150, 300, grey between
    assert (pixels[0, 150 * k] == 211).all()
  assert (pixels[:, 100:150] == 128).all()
  assert (pixels[:, 250:300] == 128).all()
