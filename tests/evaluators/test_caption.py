"""The caption evaluator on a model that recites, and its files."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

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


def test_meteor_is_asked_for_by_name(monkeypatch):
  monkeypatch.setattr(caption.meteor, "missing", lambda: "METEOR needs Java")
  with pytest.raises(UserError, match="METEOR needs Java"):
    run(TEXTS, batches(5, refs=TEXTS), metrics=("bleu", "meteor"))
