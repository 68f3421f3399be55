"""Captions, questions and statements in their published files; held-out images."""

import json
import pickle
import zlib

import pytest

from data_pipelines.readers import (
  example,
  image_captions,
  image_pairs,
  overlap,
  vqa,
  vqa_answers,
)
from tests import helpers
from vlp_jax import errors


def put(path, value):
  path.write_text(value if isinstance(value, str) else json.dumps(value))
  return path


def seen(rows):
  return [(e.key, e.images[0], e.text, e.split) for e in rows]


KARPATHY = {
  "images": [
    {
      "filename": f"COCO_val2014_{k:012d}.jpg",
      "split": split,
      "sentences": [{"raw": f"Number {k}.", "sentid": 10 + k}],
    }
    for k, split in enumerate(("train", "restval", "val", "test"))
  ]
}


def test_captions_of_each_format(tmp_path):
  coco = {
    "images": [{"id": 42, "file_name": "COCO_val2014_000000000042.jpg"}],
    "annotations": [
      {"id": 7, "image_id": 42, "caption": "A man\n with a  hat. "},
      {"id": 8, "image_id": 42, "caption": "half \ud83d"},
      {"id": 9, "image_id": 43, "caption": None},
    ],
  }
  name = "COCO_val2014_000000000042.jpg"
  assert seen(image_captions.coco(put(tmp_path / "captions_val2014.json", coco))) == [
    ("7", name, "A man with a hat.", ""),
    ("8", name, "", ""),
    ("9", "43", "", ""),
  ]
  found = list(image_captions.karpathy(put(tmp_path / "dataset_coco.json", KARPATHY)))
  assert [e.split for e in found] == ["train", "train", "val", "test"]
  assert found[0][:3] == ("10", ("COCO_val2014_000000000000.jpg",), "Number 0.")
  token = "1000092795.jpg#0\tTwo men outside .\n1000092795.jpg#1\tFriends .\n"
  rows = seen(image_captions.flickr(put(tmp_path / "results.token", token)))
  assert rows[1] == ("1000092795.jpg#1", "1000092795.jpg", "Friends .", "")
  url = "http://static.flickr.com/2723/4385058960_b0f291553e.jpg"
  put(tmp_path / image_captions.URLS, f"{url}\n")
  put(tmp_path / image_captions.CAPTIONS, "a chair in the grass\n")
  (row,) = image_captions.sbu(tmp_path)
  assert row.images == ("4385058960_b0f291553e.jpg",)
  whole = {"image_urls": [url], "captions": ["a chair in the grass"]}
  assert list(image_captions.sbu(put(tmp_path / "sbu.json", whole))) == [row]
  vg = [{"id": 2, "regions": [{"region_id": 5, "image_id": 2, "phrase": "the clock"}]}]
  rows = seen(image_captions.vg_regions(put(tmp_path / "vg.json", vg)))
  assert rows == [("5", "2", "the clock", "")]
  url = "http://x.org/a.jpg"
  for text in (f"a cat\t{url}\n", f'Caption,url\n"a cat",{url}\n'):
    file = "cc.tsv" if "\t" in text else "cc.csv"
    (row,) = image_captions.cc3m(put(tmp_path / file, text))
    assert row.text == "a cat"
    assert row.images == (str(zlib.crc32(url.encode())),)
  (row,) = image_captions.cc3m(put(tmp_path / "own.tsv", "a cat\ttrain/7.jpg\n"))
  assert row.images == ("train/7.jpg",)
  lxmert = [
    {
      "img_id": "COCO_train2014_000000318556",
      "sentf": {"mscoco": ["A bath."], "vqa": ["what color?"]},
      "labelf": {"vqa": [{"red": 1, "pink": 0.3}]},
    }
  ]
  one, two = image_captions.lxmert(put(tmp_path / "mscoco_train.json", lxmert))
  assert (one.answers, two.answers) == ((), (("red", 1.0), ("pink", 0.3)))
  text = '{"image": 42, "text": "hi", "split": "val", "label": 1}\n'
  (row,) = image_captions.lines(put(tmp_path / "own.jsonl", text))
  assert row == example.Example("1", ("42",), "hi", "val", 1)


@pytest.mark.parametrize(
  ("name", "value", "message"),
  [
    ("coco", {"images": []}, "'annotations'"),
    ("coco", [1], "images: not of this format"),
    ("karpathy", {"images": [{"split": "train"}]}, "image 0.*'sentences'"),
    ("flickr", "no tab\n", "line 1"),
    ("sbu", {"image_urls": ["a"], "captions": []}, "1 urls and 0 captions"),
    ("cc3m", "only a caption\n", "line 1"),
    ("lines", "{}\n[\n", "line 1.*'image'"),
    ("vg_regions", [{"id": 1}], "image 0"),
    ("lxmert", [{"img_id": "x"}], "row 0"),
  ],
)
def test_malformed_files_say_where(tmp_path, name, value, message):
  path = put(tmp_path / "x.json" if name != "cc3m" else tmp_path / "x.tsv", value)
  with pytest.raises(errors.UserError, match=message) as error:
    list(getattr(image_captions, name)(path))
  assert str(path) in str(error.value)


@pytest.mark.parametrize(
  ("reader", "value"),
  [
    (image_captions.coco, {"images": [], "annotations": None}),
    (image_captions.karpathy, {"images": 5}),
    (image_captions.sbu, {"image_urls": None, "captions": []}),
    (image_captions.vg_regions, None),
    (image_captions.lxmert, 5),
    (vqa.v2, {"questions": None}),
    (vqa.vg, 5),
    (vqa.lxmert, None),
  ],
)
def test_what_is_no_list_is_one_line(tmp_path, reader, value):
  put(tmp_path / "a.json", value)
  with pytest.raises(errors.UserError, match=r"a\.json, .*no list"):
    list(reader(tmp_path / "a.json"))


def test_questions_and_soft_scores(tmp_path):
  questions = {
    "questions": [{"question_id": 1, "image_id": 42, "question": "how many?"}]
  }
  told = ["2"] * 3 + ["two"] * 5 + ["a cat", "Cat."]
  told = [
    {"answer": a, "answer_confidence": "yes", "answer_id": k}
    for a, k in zip(told, range(1, 11), strict=True)
  ]
  annotations = {"annotations": [{"question_id": 1, "image_id": 42, "answers": told}]}
  at = put(tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json", questions)
  assert [e.answers for e in vqa.v2(at)] == [()]
  put(tmp_path / "v2_mscoco_val2014_annotations.json", annotations)
  (row,) = vqa.v2(at)
  assert row.answers == (("2", 1.0), ("cat", 0.6))
  assert row[:3] == ("1", ("42",), "how many?")
  gqa = {"201": {"imageId": "n1", "question": "Is it?", "answer": "yes"}}
  (row,) = vqa.gqa(put(tmp_path / "val_balanced_questions.json", gqa))
  assert row[:3] == ("201", ("n1",), "Is it?")
  assert row.answers == (("yes", 1.0),)
  vg = [
    {"id": 1, "qas": [{"qa_id": 9, "image_id": 1, "question": "?", "answer": "A Dog."}]}
  ]
  (row,) = vqa.vg(put(tmp_path / "question_answers.json", vg))
  assert row.answers == (("dog", 1.0),)
  own = [{"img_id": "x", "question_id": 3, "sent": "why?", "label": {"no": 0.9}}]
  (row,) = vqa.lxmert(put(tmp_path / "minival.json", own))
  assert row.answers == (("no", 0.9),)
  with pytest.raises(errors.UserError, match="question 0"):
    list(vqa.v2(put(tmp_path / "a.json", {"questions": [{}]})))


@pytest.mark.parametrize(
  ("given", "want"),
  [
    ("Two", "2"),
    ("none", "0"),
    ("a red  ball", "red ball"),
    ("dont know", "don't know"),
    ("couldntve", "couldn't've"),
    ("it's", "it's"),
    ("1,000", "1000"),
    ("yes, sir", "yes sir"),
    ("red/white", "red white"),
    ("2.5", "2.5"),
    ("U.S.", "us"),
    ("what?", "what"),
  ],
)
def test_official_spelling(given, want):
  assert vqa_answers.official(given) == want


def test_scores_frequent_answers_and_labels(tmp_path):
  assert vqa_answers.soft(["2"] * 3 + ["two"] * 7) == {"2": 1.0}
  scores = vqa_answers.soft(["cat"] * 3 + ["dog"] * 2 + ["fox"] + ["hen"] * 4)
  want = {"hen": 1.0, "cat": 0.9, "dog": 0.6, "fox": 0.3}
  assert scores == pytest.approx(want)
  # All alike: letters stay as they are.
  assert vqa_answers.soft(["The end."] * 10) == {"The end.": 1.0}
  assert vqa_answers.lxmert(" The Grey  cat. ") == "gray cat"
  assert vqa_answers.frequent(["b"] * 9 + ["a"] * 9 + ["c"] * 8) == ["a", "b"]
  assert vqa_answers.labels(put(tmp_path / "l.json", ["x", "y"])) == ["x", "y"]
  assert vqa_answers.labels(put(tmp_path / "l.json", {"y": 1, "x": 0})) == ["x", "y"]
  for bad in (["x", "x"], {"x": 1}, {"x": "0"}, [1], []):
    with pytest.raises(errors.UserError, match="distinct answers"):
      vqa_answers.labels(put(tmp_path / "l.json", bad))


@pytest.mark.parametrize(("name", "num"), [("vqa", 3129), ("gqa", 1842)])
def test_published_answer_lists(name, num):
  path = helpers.shared(f"data/vocab/lxmert_{name}_label2ans.json")
  answers = vqa_answers.labels(path)
  assert len(answers) == num
  # The list is in this spelling already, but for a few entries.
  same = sum(vqa_answers.lxmert(a) == a for a in answers)
  assert same > 0.97 * num


def test_nlvr2_of_the_real_file():
  rows = list(
    image_pairs.nlvr2(helpers.shared("data/annotations/nlvr2/balanced_dev.json"))
  )
  assert len(rows) == 2300
  first = rows[0]
  assert first.key == "dev-896-0-1"
  assert first.images == ("dev-896-0-img0", "dev-896-0-img1")
  assert (first.split, first.label) == ("val", 1)
  assert first.text == "There are exactly six bottles in the right image."
  assert sum(e.label for e in rows) == 1150


def test_pairs_choices_and_references(tmp_path):
  rows = [
    {"Flikr30kID": "4705552913.jpg", "sentence2": "Rain.", "gold_label": "entailment"},
    {"Flickr30K_ID": "47055", "sentence2": "Sun.", "gold_label": "-"},
    {"Flickr30K_ID": "47055", "sentence2": "Sun.", "gold_label": "neutral"},
  ]
  text = "".join(json.dumps(r) + "\n" for r in rows)
  one, two = image_pairs.snli_ve(put(tmp_path / "snli_ve_dev.jsonl", text))
  assert (one.images, one.label) == (("4705552913.jpg",), 1)
  assert (two.images, two.label) == (("47055.jpg",), 2)
  choices = [["Yes", ",", [1], "is", "."]] + [["No", "."]] * 3
  vcr = {"img_fn": "a/b.jpg", "objects": ["person", "car"], "annot_id": "val-0"}
  vcr |= {"question": ["Is", [0, 1], "here", "?"], "answer_label": 0}
  vcr |= {"answer_choices": choices, "rationale_choices": choices, "rationale_label": 3}
  (row,) = image_pairs.vcr(put(tmp_path / "val.jsonl", json.dumps(vcr)))
  assert row.text == "Is person1 and car2 here ?"
  assert row.more["answers"][0] == "Yes , car2 is ."
  assert (row.label, row.more["rationale_label"]) == (0, 3)
  refs = [
    {
      "ref_id": 1,
      "ann_id": 5,
      "image_id": 42,
      "split": "testA",
      "sentences": [{"sent_id": 8, "sent": "the left man", "raw": "x", "tokens": []}],
    }
  ]
  (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, protocol=2))
  with pytest.raises(errors.UserError, match=r"instances\.json"):
    list(image_pairs.refcoco(tmp_path))
  put(
    tmp_path / "instances.json", {"annotations": [{"id": 5, "bbox": [10, 20, 30, 40]}]}
  )
  (row,) = image_pairs.refcoco(tmp_path)
  assert row[:4] == ("8", ("42",), "the left man", "testA")
  assert row.more["box"] == [10, 20, 40, 60]
  (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(pytest.raises))
  with pytest.raises(errors.UserError, match="could be code"):
    list(image_pairs.refcoco(tmp_path))
  for name, line in (("nlvr2", '{"identifier": "dev-1"}'), ("vcr", "{}"), ("vcr", "[")):
    with pytest.raises(errors.UserError, match="line 1"):
      list(getattr(image_pairs, name)(put(tmp_path / "bad.json", line)))


def test_held_out_images(tmp_path):
  held = overlap.names(put(tmp_path / "dataset_coco.json", KARPATHY))
  assert held == {"2", "3"}  # val and test, not restval
  held |= overlap.names(put(tmp_path / "own.txt", "4385058960.jpg\n\n"))
  held |= overlap.names(put(tmp_path / "more.json", ["COCO_train2014_000000000077"]))
  assert held == {"2", "3", "77", "4385058960"}
  data = [
    {"image_id": 500, "coco_id": 3, "flickr_id": None},
    {"image_id": 501, "coco_id": None, "flickr_id": 4385058960},
    {"image_id": 502, "coco_id": 9, "flickr_id": 8},
  ]
  vg = overlap.through_visual_genome(put(tmp_path / "image_data.json", data), held)
  assert vg == {"500", "501"}
  e = lambda name, url="": example.Example("k", (name,), "t", more={"url": url})
  assert overlap.is_held_out(e("COCO_val2014_000000000003.jpg"), held)
  assert overlap.is_held_out(e("4385058960_b0f291553e.jpg"), held)  # an SBU name
  photo = "https://live.staticflickr.com/1/4385058960_b0f291553e_z.jpg"
  assert overlap.is_held_out(e("123456", photo), held)
  assert not overlap.is_held_out(e("COCO_val2014_000000000004.jpg"), held)
  with pytest.raises(errors.UserError, match=r"image_data\.json"):
    overlap.through_visual_genome(put(tmp_path / "image_data.json", [1]), held)
