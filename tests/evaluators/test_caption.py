"""The caption evaluator on a model that recites, and its files."""

import contextlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines import index, inspect, records
from data_pipelines.vocabularies import wordpiece
from tests import helpers
from vlp_jax import vocab
from vlp_jax.errors import UserError
from vlp_jax.evaluators import caption, caption_scores

WORDS = ["[pad]", "[cls]", "[sep]", "a", "man", "dog", "runs", "sits", "red"]
TEXTS = ["a man runs", "a dog sits", "a red dog runs", "a man sits", "a dog"]
LENGTH = 7


class Words:
  spec = vocab.Vocab(len(WORDS), 0, cls_id=1, sep_id=2, special_ids=(0, 1, 2))

  def decode(self, ids):
    return " ".join(WORDS[i] for i in ids)


def ids(text, start=True):
  row = [1] * start + [WORDS.index(w) for w in text.split()] + [2]
  return np.array(row + [4] * (LENGTH - len(row)))  # rubbish behind the end


def apply(variables, batch, *, rng=None, train=False, method=None):
  assert method == "decode"
  return {"caption_ids": variables[batch["example_id"]]}, {}


def batches(size, group=None, refs=None):
  out, n = [], len(TEXTS) if group is None else len(group)
  for start in range(0, n, size):
    at = np.arange(start, start + size)
    one = {"example_id": np.where(at < n, at, 0), "example_mask": at < n}
    if group is not None:
      one["group_id"] = np.array(group)[one["example_id"]]
    if refs is not None:
      rows = np.stack([ids(refs[i]) for i in one["example_id"]])
      one["caption_ids"] = rows
      ends = np.array([len(refs[i].split()) + 2 for i in one["example_id"]])
      one["caption_mask"] = np.arange(LENGTH) < ends[:, None]
    one = {
      k: np.asarray(x, x.dtype if x.dtype == bool else np.int32) for k, x in one.items()
    }
    out.append({k: jnp.asarray(x) for k, x in one.items()})
  return out


def run(written, rows, **hyper):
  table = jnp.asarray(np.stack([ids(t, start=i % 2) for i, t in enumerate(written)]))
  evaluator = caption.Evaluator(apply, rows, tokeniser=Words(), **hyper)
  return dict(evaluator.run(table)), evaluator


def test_scores_a_file_and_any_batch_size(tmp_path):
  file, made = tmp_path / "refs.json", tmp_path / "out" / "captions.json"
  rows = [{"image_id": i, "caption": t} for i, t in enumerate(TEXTS)]
  rows += [{"image_id": 0, "caption": "A man is running."}]
  file.write_text(json.dumps({"annotations": rows, "images": []}))
  written = ["a man runs", "a dog runs", "a red dog", "a man sits", "a dog"]
  found, _ = run(written, batches(2), references=str(file), predictions=str(made))
  refs = [[t] for t in TEXTS]
  refs[0].append("A man is running.")
  want = caption_scores.score(refs, written)
  assert {k: r.value for k, r in found.items()} == {k: s.value for k, s in want.items()}
  assert found["cider_d"].n == 5
  assert found["cider_d"].chance < found["cider_d"].value
  assert "1 to 2 references" in found["bleu1"].protocol
  assert json.loads(made.read_text()) == [
    {"image_id": i, "caption": t} for i, t in enumerate(written)
  ]
  for size in (1, 5, 8):
    again, _ = run(written, batches(size), references=str(file))
    assert str(again) == str(found)  # nan differs from itself


def test_references_of_the_batches_are_put_together_by_group():
  group = [7, 7, 3, 3, 3]
  written = ["a dog", "not used", "a red dog runs", "x", "y"]
  written = [w if w in TEXTS else "a" for w in written]
  found, evaluator = run(written, batches(4, group=group, refs=TEXTS))
  want = caption_scores.score([TEXTS[:2], TEXTS[2:]], ["a dog", "a red dog runs"])
  assert found["bleu2"].value == pytest.approx(want["bleu2"].value, abs=1e-12)
  assert found["rouge_l"].n == 2
  assert evaluator.examples[0] == {
    "image_id": 7,
    "caption": "a dog",
    "references": TEXTS[:2],
  }


def test_a_perfect_model_and_a_constant_one():
  rows = batches(5, refs=TEXTS)
  best, _ = run(TEXTS, rows)
  assert best["bleu1"].value == pytest.approx(1, abs=1e-6)
  assert best["rouge_l"].value == 1
  same, _ = run(["a man"] * 5, rows)
  for name in same:  # what says the same of everything is as good as chance
    assert same[name].value == pytest.approx(same[name].chance)


def test_bad_files_and_keywords(tmp_path):
  make = lambda **hyper: run(TEXTS, batches(5), **hyper)
  file = tmp_path / "refs.json"
  with pytest.raises(UserError, match="missing"):
    make(references=str(file))
  file.write_bytes(
    '{"annotations": [{"image_id": 0, "caption": "caf\u00e9"}]}'.encode("latin-1")
  )
  with pytest.raises(UserError, match="not UTF-8"):
    make(references=str(file))
  file.write_text('{"annotations": [{"caption": "x"}]}')
  with pytest.raises(UserError, match="COCO caption file"):
    make(references=str(file))
  with pytest.raises(UserError, match="3 items have no reference"):
    make(references={0: ["a"], 1: "b"})
  with pytest.raises(UserError, match="no caption_ids"):
    make()
  with pytest.raises(UserError, match="'cider_d'"):
    make(metrics=("cider",))
  with pytest.raises(UserError, match="'caption'"):
    make(stream="captions")
  evaluator = caption.Evaluator(
    apply, batches(5), tokeniser=Words(), references={0: "a"}, output="ids"
  )
  with pytest.raises(KeyError, match="caption_ids"):
    dict(evaluator.run(jnp.zeros((5, LENGTH), jnp.int32)))


@pytest.mark.parametrize(
  "given",
  [
    [{"image_id": 0, "caption": "a"}, {"image_id": 1, "caption": "b"}],
    {
      "annotations": [
        {"image_id": "0", "caption": "a"},
        {"image_id": 1, "caption": "b"},
      ]
    },
    {"0": ["a"], "1": "b"},
  ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_forms_of_reference_files(tmp_path, given, mark):
  file = tmp_path / "refs.json"
  file.write_text(mark + json.dumps(given), encoding="utf-8")
  assert caption.read_references(str(file)) == {0: ["a"], 1: ["b"]}


@pytest.mark.parametrize(
  ("given", "match"),
  [
    ({"annotations": [{"image_id": 3, "caption": None}]}, "item 3 .*None"),
    ({"3": ["a", None]}, r"item 3\[1\] is None"),
    ({"3": None}, "item 3 is None"),
    ([{"image_id": "x.png", "caption": "a"}], "'x.png'; ids must be integers"),
    ([{"image_id": 1.5, "caption": "a"}], "1.5; ids must be integers"),
    ({"images": []}, "'images'; ids must be integers"),
    (7, "COCO caption file"),
  ],
)
def test_references_that_are_none_are_named(tmp_path, given, match):
  file = tmp_path / "refs.json"
  file.write_text(json.dumps(given))
  with pytest.raises(UserError, match=match):
    caption.read_references(str(file))


def test_references_in_memory_are_checked_too():
  assert caption.read_references({np.int32(4): "a", "5": ("b",)}) == {
    4: ["a"],
    5: ["b"],
  }
  with pytest.raises(UserError, match="item 0 is None"):
    caption.read_references({0: None})
  with pytest.raises(UserError, match="True; ids must be integers"):
    caption.read_references({True: "a"})


def test_a_file_with_names_for_ids():
  at = helpers.shared("data/metrics/abstract48S_refs.json")
  with pytest.raises(UserError, match=r"'Seed7K_223_2\.png'; ids must be integers"):
    caption.read_references(str(at))


RAW = [
  "Add 1 1/2 cups well-cooked rice; don't stir at 3.5 minutes",
  "",  # a record without captions
  "pour 1,000 ml of water in, it's at 12:30 and the cook's knife / fork",
  "cut the half-done dough into 2 1/2-inch pieces, then chill",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  at = tmp_path_factory.mktemp("prepared")
  with index.ShardWriter(at, "val", 1, columns=("num_captions",)) as writer:
    for text in RAW:
      lists = {"caption/text": [text] if text else []}
      columns = {"num_captions": len(lists["caption/text"])}
      writer.write(0, records.encode({"key": "x"}, lists), **columns)
  index.write_info(at, {"name": "few", "kind": "clip_features", "splits": ["val"]})
  return at


def recite(rows, **hyper):
  """The scores of RAW as a model writes it in word pieces; records number the rows."""
  words = wordpiece.learn(RAW, size=200, min_count=1)
  spec = words.spec
  written = [[*words.encode(RAW[r]), spec.sep_id] for r in rows]
  width = max(map(len, written))
  table = np.array([w + [spec.pad_id] * (width - len(w)) for w in written], np.int32)
  batch = {
    "example_id": jnp.arange(len(rows)),
    "relevance": jnp.array(rows),
    "example_mask": jnp.ones(len(rows), bool),
    "text_ids": jnp.asarray(table),
    "text_mask": jnp.asarray(table != spec.pad_id),
  }
  evaluator = caption.Evaluator(apply, [batch], tokeniser=words, **hyper)
  return dict(evaluator.run(jnp.asarray(table))), evaluator


def test_references_of_a_prepared_set_are_raw(prepared):
  rows, given = [0, 2, 3], dict(references=f"{prepared}/val", item="relevance")
  found, evaluator = recite(rows, **given, join=True)
  # Case and the freestanding slash apart, it is the text as it was written.
  raw = [RAW[r] for r in rows]
  hyps = [text.lower().replace(" / ", "/") for text in raw]
  want = caption_scores.score([[text] for text in raw], hyps)
  for name in ("bleu4", "cider_d", "rouge_l"):
    assert found[name].value == pytest.approx(want[name].value, abs=1e-12)
  assert [e["references"] for e in evaluator.examples] == [[text] for text in raw]
  assert [e["image_id"] for e in evaluator.examples] == rows
  apart, _ = recite(rows, **given)
  assert apart["cider_d"].value < found["cider_d"].value - 1
  with pytest.raises(UserError, match="item='relevance'"):
    recite(rows, references=f"{prepared}/val")
  with pytest.raises(UserError, match=r"1 items have no reference, first \[1\]"):
    recite([0, 1], **given)
  with pytest.raises(UserError, match="Known: val"):
    recite(rows, references=f"{prepared}/test", item="relevance")
  with pytest.raises(UserError, match=r"data/mine/val"):
    recite(rows, references=str(prepared), item="relevance")


def test_the_captions_of_a_prepared_set_as_a_file(prepared, tmp_path, capsys):
  file = tmp_path / "refs.json"
  assert inspect.main([str(prepared), "--split=val", f"--captions={file}"]) == 0
  assert "wrote" in capsys.readouterr().out
  want = {r: [RAW[r]] for r in (0, 2, 3)}
  assert caption.read_references(str(file)) == want
  told = json.loads(file.read_text(encoding="utf-8"))
  assert told["images"] == [{"id": r} for r in want]
  assert [row["id"] for row in told["annotations"]] == [0, 1, 2]
  with contextlib.suppress(ImportError):
    from pycocotools import coco

    assert coco.COCO(file).imgToAnns[2][0]["caption"] == RAW[2]


def test_a_damaged_record_costs_its_references_alone(prepared, tmp_path):
  for path in prepared.iterdir():
    (tmp_path / path.name).write_bytes(path.read_bytes())
  (shard,) = tmp_path.glob("*.tfrecord")
  data = bytearray(shard.read_bytes())
  data[int(index.load(tmp_path, "val").offset[2]) + 20] ^= 1
  shard.write_bytes(data)
  assert sorted(inspect.captions(tmp_path, "val")) == [0, 3]


def test_joined_leaves_other_signs_alone():
  same = [
    "a , b",
    "the dogs ' toys",
    "1 , 2 and 3",
    "end . next",
    "a -- b",
    "x : y",
    "/",
  ]
  assert [caption.joined(text) for text in same] == same
  assert caption.joined("mother - in - law ' s 1 1 / 2 2 - 3") == (
    "mother-in-law's 1 1/2 2-3"
  )


def test_meteor_is_asked_for_by_name(monkeypatch):
  monkeypatch.setattr(caption.meteor, "missing", lambda: "METEOR needs Java")
  with pytest.raises(UserError, match="METEOR needs Java"):
    run(TEXTS, batches(5, refs=TEXTS), metrics=("bleu", "meteor"))
