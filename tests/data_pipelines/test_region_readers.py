"""Region files of each published format, made by hand, are read right or refused."""

import base64
import io
import json
import os
import pickle
import zipfile

import numpy as np
import pytest

from data_pipelines.readers import (
  lines,
  lmdb_file,
  oscar_tsv,
  packed,
  regions,
  uniter_lmdb,
)
from tests import helpers, region_files
from vlp_jax import errors

GOLDEN = [0.1, 0.1, 0.6, 0.6, 0.5, 0.5, 0.25]  # (20, 10, 120, 60) of 200 x 100


def opened(kind, path, **options):
  regions.open_reader.cache_clear()  # an LMDB may be open once a process
  return regions.open_reader(kind, str(path), tuple(sorted(options.items())))


@pytest.mark.parametrize("case", region_files.CASES)
def test_each_format_gives_the_same_regions(case, tmp_path):
  kind, path, names, known = region_files.write(case, tmp_path / "x")
  reader = opened(kind, path)
  assert sorted(reader.places) == sorted(names)
  json.dumps(reader.places)  # places travel in rows
  for name, p in zip(names, region_files.PICTURES, strict=True):
    image = reader.read(name, reader.places[name])
    assert image.features.dtype == np.float16
    np.testing.assert_array_equal(image.features, p.features)
    np.testing.assert_allclose(image.boxes[0], GOLDEN, atol=5e-4)
    np.testing.assert_allclose(image.boxes[1], [0, 0, 1, 1, 1, 1, 1], atol=1e-6)
    assert image.boxes.dtype == np.float32
    for field in ("objects", "attributes", "conf", "probs"):
      found = getattr(image, field)
      assert (found is not None) == (field in known), field
      if found is not None:
        np.testing.assert_allclose(found, getattr(p, field), atol=1e-3)
    with_size = kind not in ("uniter_lmdb", "vlp_h5") and case != "npz"
    assert (image.width, image.height) == ((200, 100) if with_size else (None, None))


def test_captions_inside_and_attribute_confidences(tmp_path):
  _, path, names, _ = region_files.write("vilbert_lmdb captions", tmp_path / "a")
  image = opened("vilbert_lmdb", path).read(names[1], names[1])
  assert (image.name, image.caption) == ("1043", region_files.CAPTIONS[1])
  _, path, names, _ = region_files.write("lxmert_tsv", tmp_path / "b")
  reader = opened("lxmert_tsv", path)
  image = reader.read(names[0], reader.places[names[0]])
  np.testing.assert_allclose(image.attribute_conf, [0.375, 0.25, 0.125])


def test_oscar_tags_classes_and_stale_indices(tmp_path):
  _, path, names, _ = region_files.write("oscar_tsv", tmp_path / "x")
  reader = opened("oscar_tsv", path, objects_file=str(path / "objects.txt"))
  image = reader.read(names[2], reader.places[names[2]])
  objects = region_files.PICTURES[2].objects
  np.testing.assert_array_equal(image.objects, objects)
  assert image.tags == tuple(f"thing{k}" for k in objects)
  with pytest.raises(ValueError, match=r"1044.*1042 lies where"):
    reader.read("1044", reader.places["1042"])
  (path / "objects.txt").write_text("thing1\n")
  reader = opened("oscar_tsv", path, objects_file=str(path / "objects.txt"))
  with pytest.raises(ValueError, match="1042: class 'thing"):
    reader.read("1042", reader.places["1042"])
  (path / "imageid2idx.json").unlink()
  (path / "features.lineidx").write_text("0\n5\n")
  with pytest.raises(errors.UserError, match=r"no line of .* begins at 5"):
    opened("oscar_tsv", path)


def test_uniter_counts_by_file_by_rule_and_by_option(tmp_path):
  root, names = region_files.uniter_lmdb(tmp_path / "a", counted=False)
  size = lambda **k: len(opened("uniter_lmdb", root, **k).read(*names[:1] * 2).features)
  assert size() == 3  # conf > 0.2
  assert size(conf_th=0.25) == 3  # strictly above, but at least min3
  assert size(conf_th=0.25, min_bb=1) == 2
  assert size(conf_th=0.05) == 4
  assert size(conf_th=0.05, max_bb=2, min_bb=1) == 2
  (root / "nbb_th0.2_max100_min3.json").write_text(json.dumps({names[0]: 1}))
  assert size() == 1
  (root / "nbb_th0.2_max100_min3.json").write_text(json.dumps({names[0]: 9}))
  with pytest.raises(ValueError, match="9 regions are asked for of 4"):
    size()
  conf = np.array([0.9, 0.21, 0.2, 0.1], np.float32)
  count = lambda **k: regions.count(conf, conf_th=0.2, **k)
  assert count(max_regions=100, min_regions=10) == 4
  assert count(max_regions=100, min_regions=1) == 2
  assert count(max_regions=1, min_regions=1) == 1


def test_uniter_texts_and_meta(tmp_path):
  import msgpack

  frame = pytest.importorskip("lz4.frame", reason="needs requirements.txt")
  rows = {
    b"q1": {"input_ids": [5, 7], "img_fname": "coco_val2014_000000001042.npz"},
    b"dev-1-0-0": {"input_ids": [9], "img_fname": ["nlvr2_a.npz", "nlvr2_b.npz"]},
  }
  rows[b"q1"]["target"] = {"labels": [3, 1], "scores": [1.0, 0.3]}
  rows[b"dev-1-0-0"]["target"] = 1
  pack = lambda x: frame.compress(msgpack.packb(x, use_bin_type=True))
  region_files.lmdb_write(tmp_path / "txt.db", {k: pack(v) for k, v in rows.items()})
  pair, question = uniter_lmdb.texts(tmp_path / "txt.db")
  assert (question.key, question.input_ids) == ("q1", [5, 7])
  assert question.images == ("coco_val2014_000000001042.npz",)
  assert question.fields["target"] == {"labels": [3, 1], "scores": [1.0, 0.3]}
  assert pair.images == ("nlvr2_a.npz", "nlvr2_b.npz")
  meta = {"CLS": 101, "SEP": 102, "v_range": [106, 28996], "toker": "bert-base-cased"}
  (tmp_path / "txt.db" / "meta.json").write_text(json.dumps(meta))
  found = uniter_lmdb.meta(tmp_path / "txt.db")
  assert (found["tokenizer"], found["v_range"]) == ("bert-base-cased", [106, 28996])
  # A frame whose header and blocks are spelt out: magic, version 1, one stored block.
  literal = bytes.fromhex("04224d1860408205000080") + b"hello" + bytes(4)
  assert packed.lz4(literal) == b"hello"
  with pytest.raises(ValueError, match="LZ4"):
    packed.lz4(literal[:-3])
  region_files.lmdb_write(tmp_path / "bad.db", {b"q": b"no frame"})
  with pytest.raises(errors.UserError, match="example q: ValueError damaged LZ4"):
    list(uniter_lmdb.texts(tmp_path / "bad.db"))


class Canary:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.mkdir, (str(self.path),)


def test_nothing_in_a_file_is_executed(tmp_path):
  import msgpack

  canary = tmp_path / "canary"
  hostile = pickle.dumps(Canary(canary))
  objects = np.array([Canary(canary)], object)
  archive = io.BytesIO()
  np.savez(archive, features=objects)
  array = {b"nd": True, b"type": "|O8", b"kind": b"O", b"shape": [1], b"data": hostile}
  good = {b"keys": pickle.dumps([b"7"])}
  for k, value in enumerate([hostile, pickle.dumps({"features": objects})]):
    region_files.lmdb_write(tmp_path / f"v{k}.lmdb", good | {b"7": value})
    with pytest.raises(ValueError, match="image 7"):
      opened("vilbert_lmdb", tmp_path / f"v{k}.lmdb").read("7", "7")
  region_files.lmdb_write(tmp_path / "list.lmdb", {b"keys": hostile})
  with pytest.raises(errors.UserError, match="list of keys"):
    opened("vilbert_lmdb", tmp_path / "list.lmdb")
  for k, value in enumerate([msgpack.packb({"features": array}), archive.getvalue()]):
    entries = {b"__keys__": b'["7.npz"]', b"7.npz": value}
    region_files.lmdb_write(tmp_path / f"u{k}" / "all", entries)
    with pytest.raises(ValueError, match=r"image 7\.npz.*objects|Objects"):
      opened("uniter_lmdb", tmp_path / f"u{k}").read("7.npz", "7.npz")
  (tmp_path / "n").mkdir()
  (tmp_path / "n" / "7.npz").write_bytes(archive.getvalue())
  for kind in ("npz", "boxes_npz"):
    with pytest.raises(ValueError, match="image 7"):
      opened(kind, tmp_path / "n").read("7", "7.npz")
  assert not canary.exists()


def _row(**changes):
  p = region_files.PICTURES[0]
  x = {"image_id": "42", "w": 200, "h": 100, "n": 3, "boxes": region_files.b64(p.boxes)}
  x |= {"features": region_files.b64(p.features)} | changes
  return "\t".join(map(str, x.values())) + "\n"


NAN = region_files.b64(np.full((3, 4), np.nan))
DAMAGED = {
  r"num_boxes b'three' is no number": dict(n="three"),
  r"no regions \(boxes": dict(n=0, boxes="", features=""),
  r"boxes holds 48 bytes": dict(n=2),
  r"box \(20, 10, 120, 60\) is not inside an image of 100 x 100": dict(w=100),
  r"image of 0 x 100 pixels": dict(w=0),
  r"box \(nan, nan": dict(boxes=NAN),
  r"box \(120, 10, 20": dict(
    boxes=region_files.b64(region_files.PICTURES[0].boxes[:, [2, 1, 0, 3]])
  ),
  r"features are NaN": dict(features=region_files.b64(np.full((3, 16), np.nan))),
  r"features are .* beyond float16": dict(
    features=region_files.b64(np.full((3, 16), 1e5))
  ),
  r"features holds 7 bytes": dict(features=base64.b64encode(b"seven b").decode()),
  r"features is no base64": dict(features="A"),
  r"no regions \(boxes of shape \(-1": dict(n=-1),
}


@pytest.mark.parametrize("message", DAMAGED)
def test_damage_names_the_image(tmp_path, message):
  (tmp_path / "a.tsv").write_text(_row(image_id="7") + _row(**DAMAGED[message]))
  reader = opened("bua_tsv", tmp_path / "a.tsv")
  assert len(reader.read("7", reader.places["7"]).features) == 3
  with pytest.raises(ValueError, match=f"image 42: {message}"):
    reader.read("42", reader.places["42"])


def test_damaged_records_of_the_other_formats_name_the_image(tmp_path):
  for case in region_files.available():
    root = tmp_path / case.replace(" ", "_")
    kind, path, names, _ = region_files.write(case, root)
    if kind in ("uniter_lmdb", "vilbert_lmdb"):
      import lmdb

      regions.open_reader.cache_clear()
      at = uniter_lmdb._environment(path)
      with lmdb.open(str(at)) as env, env.begin(write=True) as txn:
        value = txn.get(names[0].encode())
        txn.put(names[0].encode(), value[: len(value) // 2])
    elif kind == "vlp_h5":
      (root / "coco_detection_vg_feat042.h5").unlink()
    elif kind == "vlbert_json":
      (root / "00001042.json").write_text('{"image_w": 3')
    elif kind.endswith("npz"):
      for at in [*root.rglob("*1042.npz"), *root.rglob("features/1042.npy")]:
        at.write_bytes(at.read_bytes()[:-300])
    else:
      for at in [
        *root.glob("features.tsv"),
        *root.glob("*v.0"),
        *root.glob("val*.tsv"),
      ]:
        data = at.read_bytes()
        at.write_bytes(data[:30] + b"\t" + data[31:])
    reader = opened(kind, path)
    with pytest.raises(ValueError, match=f"image {names[0]}"):
      reader.read(names[0], reader.places[names[0]])


def test_missing_sources_are_one_line(tmp_path):
  (tmp_path / "empty").mkdir()
  for kind in regions.FORMATS:
    for path in (tmp_path / "none", tmp_path / "empty"):
      with pytest.raises(errors.UserError, match=str(path)) as error:
        opened(kind, path)
      assert "\n" not in str(error.value)
  pytest.importorskip("lmdb", reason="needs requirements.txt")
  (tmp_path / "bad.lmdb").mkdir()
  (tmp_path / "bad.lmdb" / "data.mdb").write_bytes(b"x" * 9000)
  with pytest.raises(errors.UserError, match=r"bad\.lmdb cannot be read as LMDB"):
    opened("vilbert_lmdb", tmp_path / "bad.lmdb")
  region_files.uniter_lmdb(tmp_path / "cut")
  data = tmp_path / "cut" / "feat_th0.2_max100_min3" / "data.mdb"
  data.write_bytes(data.read_bytes()[:-4096])
  with pytest.raises(errors.UserError, match="is cut off"):
    opened("uniter_lmdb", tmp_path / "cut")
  (tmp_path / "x_bbox.h5").write_bytes(b"no hdf5")
  with pytest.raises(errors.UserError, match=r"x_bbox\.h5 cannot be read as HDF5"):
    opened("vlp_h5", tmp_path)
  with pytest.raises(errors.UserError, match="Did you mean 'bua_tsv'"):
    opened("bua_tvs", tmp_path)
  with pytest.raises(errors.UserError, match="unknown key 'conf'"):
    opened("npz", tmp_path, conf=1)


def test_read_only_directories_and_absent_packages(tmp_path, monkeypatch):
  _, path, names, _ = region_files.write("uniter_lmdb", tmp_path / "x")
  env = path / "feat_th0.2_max100_min3"
  (env / "lock.mdb").unlink()
  env.chmod(0o555)
  try:
    reader = opened("uniter_lmdb", path)
    assert len(reader.read(names[0], names[0]).features) == 3
    assert [p.name for p in env.iterdir()] == ["data.mdb"]  # nothing was written
  finally:
    env.chmod(0o755)
  for package, kind in (("lmdb", "uniter_lmdb"), ("h5py", "vlp_h5")):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    (tmp_path / "a_bbox.h5").touch()
    with pytest.raises(errors.UserError, match=rf"package {package}: pip install"):
      opened(kind, tmp_path if kind == "vlp_h5" else path)


def test_hdf5_links_and_declared_sizes_are_refused(tmp_path):
  import h5py

  region_files.vlp_h5(tmp_path)
  with h5py.File(tmp_path / "coco_detection_vg_feat042.h5", "w") as f:
    f["1042"] = h5py.ExternalLink("coco_detection_vg_feat043.h5", "1043")
  with h5py.File(tmp_path / "coco_detection_vg_feat043.h5", "w") as f:
    f.create_dataset("1043", (1 << 30, 16), "f4", chunks=(1, 16))  # 64 GB of nothing
  reader = opened("vlp_h5", tmp_path)
  for name in ("1042", "1043"):
    with pytest.raises(ValueError, match=f"image {name}"):
      reader.read(name, name)


def test_a_zip_bomb_is_refused(tmp_path):
  with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("7.json", b" " * (1 << 24))
  with pytest.raises(ValueError, match=r"image 7: .* expands to 16777216 bytes"):
    opened("vlbert_json", tmp_path / "a.zip").read("7", "a.zip@/7.json")


def test_selection_keeps_the_most_confident_in_stored_order():
  p = region_files.PICTURES[0]
  image = regions.make("7", p.features, p.boxes, size=(200, 100), conf=[0.1, 0.9, 0.5])
  keep = lambda **k: regions.select(image, **k).conf.tolist()
  assert keep(max_regions=2) == pytest.approx([0.9, 0.5])
  assert keep(max_regions=9, min_regions=1, conf_th=0.5) == pytest.approx([0.9])
  assert keep(max_regions=9, min_regions=2, conf_th=0.5) == pytest.approx([0.9, 0.5])
  plain = image._replace(conf=None)
  few = regions.select(plain, max_regions=2, conf_th=0.5)
  np.testing.assert_array_equal(few.features, p.features[:2])


def test_names_of_images():
  for name in ("COCO_val2014_000000000042.jpg", "coco_val2014_000000000042.npz"):
    assert regions.plain(name) == "42"
  assert regions.plain("vcr1images/x/42.json") == "42"
  assert regions.plain("visual_grounding_coco_gt_000000000042.npz") == "42"
  assert regions.plain("nlvr2_dev-896-0-img0.npz") == "dev-896-0-img0"
  assert regions.plain("4385058960_b0f291553e.jpg") == "4385058960_b0f291553e"
  find = regions.lookup(["coco_train2014_000000000042.npz", "vg_42", "vg_43"])
  assert find("vg_42") == "vg_42"
  assert find("43") == "vg_43"
  assert find("44") is None
  with pytest.raises(errors.UserError, match="image 42 may be"):
    find("42")


def test_vocabularies_of_the_detector():
  objects = oscar_tsv.class_names(helpers.shared("data/vocab/vg_objects_vocab.txt"))
  attributes = oscar_tsv.class_names(
    helpers.shared("data/vocab/vg_attributes_vocab.txt")
  )
  assert (len(objects), len(attributes)) == (1600, 400)
  assert objects[0] == ("yolk",)
  assert max(map(len, objects)) > 1  # aliases


def test_lines_are_found_by_scan_and_by_offsets(tmp_path):
  (tmp_path / "a.tsv").write_text("one\t1\n\ntwo\t2")
  found = lines.places(lines.files(tmp_path))
  assert found == {"one": [0, 0], "two": [0, 7]}
  (tmp_path / "a.lineidx").write_text("0\n7\n")
  assert lines.places(lines.files(tmp_path)) == found
  assert lmdb_file.is_file(tmp_path) is False
