"""Users' region files and captions through `prepare`, the stream and a train step."""

import functools
import hashlib
import json
import pathlib
import zlib

import jax
import numpy as np
import optax
import pytest

from data_pipelines import batches, index, records, vocabularies
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import image_text, nlvr2, shards, vqa
from data_pipelines.readers import regions
from tests import helpers, region_files
from vlp_jax import errors, sharding
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.models import uniter
from vlp_jax.objectives import masked

TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "!")
TOKENS += tuple(sorted({w for c in region_files.CAPTIONS for w in c.split()}))


@pytest.fixture(autouse=True)
def closed():
  """An LMDB may be open once a process."""
  regions.open_reader.cache_clear()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
  """vocab.txt and the captions of the four pictures in COCO's form."""
  root = tmp_path_factory.mktemp("files")
  (root / "vocab.txt").write_text("".join(f"{t}\n" for t in TOKENS))
  coco = {"images": [], "annotations": []}
  for k, p in enumerate(region_files.PICTURES):
    name = f"COCO_val2014_{p.number:012d}.jpg"
    coco["images"].append({"id": p.number, "file_name": name})
    text = region_files.CAPTIONS[k]
    coco["annotations"].append({"id": k, "image_id": p.number, "caption": text})
  (root / "captions_train2014.json").write_text(json.dumps(coco))
  return root


def prepared(case, files, tmp_path, **keywords):
  kind, path, _, _ = region_files.write(case, tmp_path / "source")
  own = dict(captions=str(files / "captions_train2014.json"))
  if "captions" in case:
    own = dict(captions_format="inside", captions="train")
  keywords = own | dict(vocab_file=str(files / "vocab.txt"), quiet=True) | keywords
  out = tmp_path / "out"
  info = image_text.prepare(path, out, regions_format=kind, **keywords)
  return out, info


def read(out, split="train"):
  """Text -> context of the records, by our own decoder and TensorFlow-free."""
  found = {}
  for path in index.load(out, split).paths:
    with path.open("rb") as f:
      for _, payload in records.read(f):
        context, _ = records.decode(payload)
        found[context["text"][0].decode()] = context
  return found


@functools.lru_cache(maxsize=1)
def trainer(vocab):
  """(state maker, compiled step) shared by all formats: batches have one shape."""
  model = uniter.Model(
    vocab_size=vocab.size, **uniter.VARIANTS["mu"] | {"dropout": 0.0}
  )
  mesh = sharding.mesh(None, jax.devices()[:1])
  make, _, placed, tx = state_lib.init(model, lambda _: optax.adam(1e-3), mesh)

  def both(apply, variables, batch, key):
    terms, aux, _ = masked.mlm(apply, variables, batch, key, vocab=vocab)
    more, means, _ = masked.mrfr(apply, variables, batch, key)
    return terms | more, aux | means, {}

  apply = state_lib.make_apply(model)
  step = step_lib.build(both, apply=apply, tx=tx, mesh=mesh, shardings=placed)
  return make, step, mesh


@pytest.fixture(scope="module")
def streamed(files, tmp_path_factory):
  """Case -> (dataset_info, batch of its four pictures in their order).

  The shards of all cases are read by one stream, case after case: opening one for each
  would take a minute.
  """
  root, infos = tmp_path_factory.mktemp("formats"), {}
  whole = root / "whole"
  whole.mkdir()
  cases = region_files.available()
  for number, case in enumerate(cases):
    regions.open_reader.cache_clear()
    out, infos[case] = prepared(case, files, root / str(number))
    name = index.shard_name("train", number, len(cases))
    shard = out / index.shard_name("train", 0, 1)
    shard.rename(whole / name)
    pathlib.Path(index.index_path(shard)).rename(index.index_path(whole / name))
  told = json.loads((out / index.INFO).read_text())
  del told["regions_fields"]  # of the last case only; here the fields of all are read
  (whole / index.INFO).write_text(json.dumps(told))
  vocab = vocabularies.build({"name": "wordpiece", "file": str(files / "vocab.txt")})
  given = dict(task="text_regions", dir=str(whole), split="train", rows=4)
  made = list(batches.evaluation(given, vocab=vocab))
  found = {}
  for case, batch in zip(infos, made, strict=True):
    texts = [vocab.decode(row) for row in batch["text_ids"]]
    order = [texts.index(c) for c in region_files.CAPTIONS]
    found[case] = infos[case], {k: v[order] for k, v in batch.items()}
  return vocab.spec, found


@pytest.mark.parametrize("case", region_files.CASES)
def test_each_format_reaches_a_training_step(case, streamed):
  vocab, found = streamed
  if case not in found:
    pytest.skip("needs requirements.txt")
  info, batch = found[case]
  kind, _, known = region_files.CASES[case]
  known = {"features", "boxes", *known}
  if kind == "lxmert_tsv":
    known.add("attribute_conf")
  fields = ("features", "boxes", *region_files.FIELDS)
  assert info["kind"] == "regions"
  assert info["regions_fields"] == [k for k in fields if k in known]
  assert info["region_dim"] == region_files.DIM

  pictures = region_files.PICTURES
  assert batch["regions_mask"].sum(axis=1).tolist() == [3] * 4
  real = {k: v[:, :3] for k, v in batch.items() if k.startswith("regions_")}
  assert real["regions_features"].dtype == np.float16
  want = np.stack([p.features for p in pictures])
  np.testing.assert_array_equal(real["regions_features"], want)
  corners = np.stack([p.boxes / [200, 100, 200, 100] for p in pictures])
  wide = real["regions_boxes"]
  np.testing.assert_allclose(wide[..., :4], corners, atol=5e-4)
  np.testing.assert_allclose(wide[..., 6], wide[..., 4] * wide[..., 5], atol=1e-6)
  for field in ("objects", "conf"):
    want = np.stack([getattr(p, field) for p in pictures]) * (field in known)
    np.testing.assert_allclose(real[f"regions_{field}"], want, atol=1e-3)
  assert len(set(batch["group_id"].tolist())) == 4

  make, step, mesh = trainer(vocab)
  losses = {}
  for name in ("bua_tsv", case):  # the same images: the same losses
    rows = found[name][1]
    rows = rows | {k: np.arange(4, dtype=np.int32) for k in ("example_id", "group_id")}
    state, means = step(make(), sharding.put(rows, mesh), jax.random.key(0))
    assert int(state.step) == 1
    losses[name] = [float(means[k].value) for k in ("mlm", "mrfr", "grad_norm")]
  assert losses[case] == pytest.approx(losses["bua_tsv"], rel=1e-3)
  assert all(np.isfinite(v) and v > 0 for v in losses[case])


def test_the_training_stream_reads_it(files, tmp_path):
  out, _ = prepared("lxmert_tsv", files, tmp_path)
  vocab = vocabularies.build({"name": "wordpiece", "file": str(files / "vocab.txt")})
  given = dict(task="text_regions", dir=str(out), split="train", tokens=128)
  given |= dict(fields=("regions_attributes",))
  batch = next(batches.build(given, vocab=vocab))
  assert batch["regions_attributes"].max() == max(
    p.attributes.max() for p in region_files.PICTURES
  )


def test_probabilities_tags_and_selection(files, tmp_path):
  names = "".join(f"thing{k},other\n" for k in range(1, region_files.CLASSES))
  (tmp_path / "objects.txt").write_text(names)
  out, info = prepared(
    "vlbert_json",
    files,
    tmp_path,
    objects_file=str(tmp_path / "objects.txt"),
    conf_th=0.3,
    min_regions=1,
  )
  for p, text in zip(region_files.PICTURES, region_files.CAPTIONS, strict=True):
    x = read(out)[text]
    assert x["regions/num"] == [2]  # conf 0.75 and 0.5
    probs = np.frombuffer(x["regions/probs"][0], np.float16).reshape(2, -1)
    np.testing.assert_allclose(probs, p.probs[:2], atol=1e-3)
    assert x["tags"][0].decode() == " ".join(f"thing{k}" for k in p.objects[:2])
    assert x["group"] == [str(p.number).encode()]
  assert info["classes"]["objects"][:2] == ["background", "thing1"]
  assert index.load(out, "train").columns["num_regions"].tolist() == [2] * 4


def test_lxmert_keeps_attributes_and_their_confidence(files, tmp_path):
  out, _ = prepared("lxmert_tsv", files, tmp_path)
  x = read(out)[region_files.CAPTIONS[0]]
  p = region_files.PICTURES[0]
  found = np.frombuffer(x["regions/attributes"][0], np.int32)
  np.testing.assert_array_equal(found, p.attributes)
  found = np.frombuffer(x["regions/attribute_conf"][0], np.float32)
  np.testing.assert_allclose(found, p.conf / 2)


def digests(out):
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in out.iterdir()}


def test_reruns_change_nothing_and_dry_runs_write_nothing(files, tmp_path):
  out, guess = prepared("bua_tsv", files, tmp_path, dry_run=True)
  assert guess["num_examples"] == 4
  assert not out.exists()
  _, info = prepared("bua_tsv", files, tmp_path)
  before = digests(out)
  size = sum(p.stat().st_size for p in out.glob("*.tfrecord"))
  assert guess["num_bytes"] == pytest.approx(size, rel=0.2)
  assert prepared("bua_tsv", files, tmp_path) == (out, info)
  assert digests(out) == before
  with pytest.raises(errors.UserError, match="max_regions 100 -> 2"):
    prepared("bua_tsv", files, tmp_path, max_regions=2)


def test_workers_write_the_same_bytes(files, tmp_path, monkeypatch):
  monkeypatch.setattr(image_text._text_regions, "PER_SHARD", 2)
  sizes = {}
  for processes in (1, 2):
    place = tmp_path / str(processes)
    regions.open_reader.cache_clear()
    out, _ = prepared("uniter_lmdb", files, place, processes=processes)
    sizes[processes] = {k: v for k, v in digests(out).items() if "train" in k}
  assert sizes[1] == sizes[2]
  assert len(sizes[1]) == 4


def caption_file(path, rows):
  path.write_text("".join(json.dumps(r) + "\n" for r in rows))
  return str(path)


def test_missing_damaged_and_empty_are_counted(files, tmp_path):
  rows = [{"image": 1042, "text": "a cat", "key": f"good{k}"} for k in range(3)]
  rows += [{"image": 77, "text": "a cat"}, {"image": 1043, "text": "  "}]
  rows += [{"image": 1043, "text": "no ring [MASK]", "key": "wide"}]
  own = dict(captions_format="lines")
  own["captions"] = "train=" + caption_file(tmp_path / "a.jsonl", rows)
  kind, path, _, _ = region_files.write("bua_tsv", tmp_path / "source")
  at = path / "trainval.tsv.1"
  lines = at.read_text().splitlines()
  p = region_files.PICTURES[1]
  fields = lines[0].split("\t")
  fields[5] = region_files.b64(np.ones((3, 7)))
  at.write_text("\n".join(["\t".join(fields), *lines[1:]]) + "\n")
  own |= dict(vocab_file=str(files / "vocab.txt"), quiet=True)
  out = tmp_path / "out"
  info = image_text.prepare(path, out, regions_format=kind, **own)
  assert info["splits"]["train"]["num_examples"] == 3
  assert info["splits"]["train"]["bad_records"] == 2
  assert info["left_out"]["train"] == {"held_out": 0, "no_regions": 0, "no_text": 1}
  noted = [json.loads(line) for line in (out / shards.BAD).read_text().splitlines()]
  reasons = {n["key"]: n["reason"] for n in noted}
  assert reasons["4"] == "no regions of image 77"
  assert reasons["wide"] == f"image {p.number}: features are 7 wide, others 16"
  info = image_text.prepare(
    path, tmp_path / "skip", regions_format=kind, skip_missing=True, **own
  )
  assert info["left_out"]["train"]["no_regions"] == 1
  assert info["splits"]["train"]["bad_records"] == 1
  many = [{"image": 10**6 + k, "text": "a cat", "key": str(k)} for k in range(101)]
  own["captions"] = "train=" + caption_file(tmp_path / "b.jsonl", rows[:3] + many)
  with pytest.raises(errors.DataBudgetError, match="101 of 104"):
    image_text.prepare(path, tmp_path / "bad", regions_format=kind, **own)
  own["captions"] = "train=" + caption_file(tmp_path / "c.jsonl", many[:2])
  with pytest.raises(errors.UserError, match=r"no text finds its image: .*'1000000'"):
    image_text.prepare(path, tmp_path / "none", regions_format=kind, **own)


def test_held_out_images_leave_the_training_split(files, tmp_path):
  karpathy = {"images": []}
  for k, p in enumerate(region_files.PICTURES):
    split = ("train", "restval", "test", "val")[k]
    sentence = {"raw": region_files.CAPTIONS[k], "sentid": k}
    name = f"COCO_val2014_{p.number:012d}.jpg"
    row = {"filename": name, "split": split, "sentences": [sentence]}
    karpathy["images"].append(row)
  (tmp_path / "dataset_coco.json").write_text(json.dumps(karpathy))
  (tmp_path / "vg.json").write_text(
    json.dumps([{"image_id": 1043, "coco_id": 1045, "flickr_id": None}])
  )
  exclude = dict(exclude=str(tmp_path / "dataset_coco.json"))
  _, info = prepared("bua_tsv", files, tmp_path / "a", **exclude)
  assert info["splits"]["train"]["num_examples"] == 2
  assert info["left_out"]["train"]["held_out"] == 2
  exclude["vg_image_data"] = str(tmp_path / "vg.json")
  _, info = prepared("bua_tsv", files, tmp_path / "b", **exclude)
  assert info["left_out"]["train"]["held_out"] == 3
  own = dict(captions_format="karpathy", captions=str(tmp_path / "dataset_coco.json"))
  _, info = prepared("bua_tsv", files, tmp_path / "c", **own)
  counts = {k: v["num_examples"] for k, v in info["splits"].items()}
  assert counts == {"train": 2, "test": 1, "val": 1}


def test_ids_of_a_text_lmdb_come_back_as_the_same_ids(files, tmp_path):
  import msgpack

  frame = pytest.importorskip("lz4.frame", reason="needs requirements.txt")
  vocab = vocabularies.build({"name": "wordpiece", "file": str(files / "vocab.txt")})
  entries = {}
  for k, p in enumerate(region_files.PICTURES):
    ids = [TOKENS.index(w) for w in region_files.CAPTIONS[k].split()]
    row = {"input_ids": ids, "img_fname": f"coco_val2014_{p.number:012d}.npz"}
    packed = msgpack.packb(row, use_bin_type=True)
    entries[str(k).encode()] = frame.compress(packed)
  region_files.lmdb_write(tmp_path / "txt_train.db", entries)
  own = dict(captions_format="uniter", captions=str(tmp_path / "txt_train.db"))
  out, _ = prepared("uniter_lmdb", files, tmp_path, **own)
  found = read(out)
  assert set(found) == set(region_files.CAPTIONS)
  for text in found:
    assert vocab.encode(text) == [TOKENS.index(w) for w in text.split()]
  regions.open_reader.cache_clear()
  with pytest.raises(errors.UserError, match="holds ids of tokens only"):
    prepared("uniter_lmdb", files, tmp_path / "b", **own, vocab_file="")


def test_questions_carry_answers(files, tmp_path):
  kind, path, _, _ = region_files.write("bua_tsv", tmp_path / "source")
  rows = [
    {"question_id": k, "image_id": p.number, "question": f"{region_files.CAPTIONS[k]}?"}
    for k, p in enumerate(region_files.PICTURES)
  ]
  given = [["red"] * 10, ["red"] * 2 + ["blue"] * 8, ["rare"] * 10, ["blue"] * 10]
  told = [
    {"question_id": k, "answers": [{"answer": a} for a in answers]}
    for k, answers in enumerate(given)
  ]
  name = "v2_{}mscoco_train2014_{}.json"
  (tmp_path / name.format("OpenEnded_", "questions")).write_text(
    json.dumps({"questions": rows})
  )
  (tmp_path / name.format("", "annotations")).write_text(
    json.dumps({"annotations": told})
  )
  own = dict(questions=str(tmp_path / name.format("OpenEnded_", "questions")))
  own |= dict(regions_format=kind, vocab_file=str(files / "vocab.txt"), quiet=True)
  out = tmp_path / "out"
  info = vqa.prepare(path, out, min_count=2, **own)
  assert json.loads((out / "answers.json").read_text()) == ["blue"]
  (tmp_path / "labels.json").write_text('{"red": 1, "blue": 0}')
  out = tmp_path / "given"
  labels = dict(answers_file=str(tmp_path / "labels.json"))
  info = vqa.prepare(path, out, **own, **labels)
  assert info["num_answers"] == 2
  found = {x["key"][0].decode(): x for x in read(out).values()}
  assert found["1"]["answers/ids"].tolist() == [0, 1]
  np.testing.assert_allclose(found["1"]["answers/scores"], [1.0, 0.6])
  assert len(found["2"]["answers/ids"]) == 0
  table = index.load(out, "train")
  assert sorted(table.columns["num_answers"].tolist()) == [0, 1, 1, 2]
  with pytest.raises(errors.UserError, match="occurs 9 times"):
    vqa.prepare(path, tmp_path / "few", **own)


def test_entailment_and_two_images(files, tmp_path):
  kind, path, _, _ = region_files.write("bua_tsv", tmp_path / "source")
  rows = [
    {"Flickr30K_ID": str(p.number), "sentence2": "a cat", "gold_label": label}
    for p, label in zip(
      region_files.PICTURES, ["neutral", "entailment", "-", "neutral"], strict=True
    )
  ]
  own = dict(regions_format=kind, vocab_file=str(files / "vocab.txt"), quiet=True)
  at = "train=" + caption_file(tmp_path / "snli.jsonl", rows)
  info = vqa.prepare(
    path, tmp_path / "e", questions=at, questions_format="snli_ve", **own
  )
  assert info["num_answers"] == 3
  assert info["splits"]["train"]["num_examples"] == 3

  folder = tmp_path / "pairs"
  folder.mkdir()
  for k, p in enumerate(region_files.PICTURES):
    name = f"nlvr2_dev-{k // 2}-0-img{k % 2}.npz"
    (folder / name).write_bytes(region_files.uniter_npz(p))
  rows = [
    {"identifier": f"dev-{k}-0-0", "sentence": "a cat", "label": ("True", "False")[k]}
    for k in (0, 1)
  ]
  at = "train=" + caption_file(tmp_path / "dev.json", rows)
  own["regions_format"] = "npz"
  nlvr2.prepare(folder, tmp_path / "n", statements=at, **own)
  with index.load(tmp_path / "n", "train").paths[0].open("rb") as f:
    found = [records.decode(payload)[0] for _, payload in records.read(f)]
  assert [int(x["label"][0]) for x in found] == [1, 0]
  second = np.frombuffer(found[1]["regions2/features"][0], np.float16).reshape(3, -1)
  np.testing.assert_array_equal(second, region_files.PICTURES[3].features)
  assert found[1]["group"] == [b"dev-1-0-img0 dev-1-0-img1"]


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (["--regions_format", "bua"], "Did you mean 'bua_tsv'"),
    (["--captions_format", "cocoo"], "Did you mean 'coco'"),
    (["--captions", "none.json"], "none.json is missing"),
    (["--regions", "none.tsv"], "none.tsv is missing"),
    (["--regions_options", "conf_th"], "is no key=value"),
    (["--max_regions", "0"], "max_regions=0"),
    (["--limit", "-1"], "limit=-1"),
    ([], "no annotation file is given"),
  ],
)
def test_mistakes_are_one_line_and_exit_2(files, tmp_path, capsys, more, message):
  _, path, _, _ = region_files.write("bua_tsv", tmp_path / "source")
  run = ["image_text", "--source", str(path), "--out", str(tmp_path / "out")]
  if more and "--captions" not in more:
    run += ["--captions", str(files / "captions_train2014.json")]
  assert command.main([*run, *more]) == 2
  out, err = capsys.readouterr()
  assert message in err
  assert err.count("\n") == 1
  assert not out


def test_the_command_prepares_conceptual_captions(files, tmp_path, capsys):
  _, path, _, _ = region_files.write("vlbert_json", tmp_path / "source")
  url = "http://x.org/7.jpg"
  number = zlib.crc32(url.encode())
  (path / "00001042.json").rename(path / f"{number}.json")
  (tmp_path / "Train.tsv").write_text(f"a cat\t{url}\n")
  run = ["image_text", "--source", str(path), "--out", str(tmp_path / "out")]
  run += ["--regions_format", "vlbert_json", "--captions_format", "cc3m"]
  run += ["--captions", str(tmp_path / "Train.tsv"), "--limit", "1", "--no_probs"]
  run += ["--vocab_file", str(files / "vocab.txt"), "--processes", "1"]
  assert command.main(run) == 0, capsys.readouterr().err
  assert "train 1; 0 in quarantine" in capsys.readouterr().err
  (x,) = read(tmp_path / "out").values()
  assert "regions/probs" not in x
  assert x["group"] == [str(number).encode()]


def test_the_real_statements_of_nlvr2(tmp_path):
  folder = tmp_path / "source"
  folder.mkdir()
  for k, p in enumerate(region_files.PICTURES):
    name = f"nlvr2_dev-896-{k // 2}-img{k % 2}.npz"
    (folder / name).write_bytes(region_files.uniter_npz(p))
  info = nlvr2.prepare(
    folder,
    tmp_path / "out",
    regions_format="npz",
    statements=str(helpers.shared("data/annotations/nlvr2/balanced_dev.json")),
    vocab_file=str(helpers.shared("data/vocab/bert-base-uncased-vocab.txt")),
    skip_missing=True,
    quiet=True,
  )
  assert info["splits"]["val"]["num_examples"] == 4  # two sentences of two pairs
  assert info["left_out"]["val"]["no_regions"] == 2296
  text = "There are exactly six bottles in the right image."
  assert text in read(tmp_path / "out", "val")


def test_the_published_answers_of_vqa(tmp_path):
  kind, path, _, _ = region_files.write("bua_tsv", tmp_path / "source")
  rows = [{"img_id": "COCO_val2014_000000001042", "question_id": 7, "sent": "what?"}]
  rows[0]["label"] = {"trash can": 1, "no such answer at all": 0.3}
  (tmp_path / "train.json").write_text(json.dumps(rows))
  info = vqa.prepare(
    path,
    tmp_path / "out",
    regions_format=kind,
    questions_format="lxmert",
    questions=str(tmp_path / "train.json"),
    answers_file=str(helpers.shared("data/vocab/lxmert_vqa_label2ans.json")),
    vocab_file=str(helpers.shared("data/vocab/bert-base-uncased-vocab.txt")),
    quiet=True,
  )
  assert info["num_answers"] == 3129
  (x,) = read(tmp_path / "out").values()
  assert x["answers/ids"].tolist() == [2]
