"""Plain text prepared, and its pairs and rows streamed."""

import json

import numpy as np
import pytest

from data_pipelines import batches, index, vocabularies
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import text
from vlp_jax import batch as contract
from vlp_jax.errors import UserError

NUMBERS = ("one", "two", "three", "four", "five", "six")
THINGS = ("square", "circle", "star", "ring")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
  """Four documents: document d counts its own things, so that a pair tells itself."""
  at = tmp_path_factory.mktemp("text")
  source = at / "source"
  source.mkdir()
  say = lambda d, i: f"{NUMBERS[i]} {THINGS[d]} ."
  lines = ["\n".join(say(d, i) for i in range(6)) for d in (0, 1)]
  (source / "a.txt").write_text("\n\n".join(lines) + "\n")
  rows = [
    {"sentences": [say(2, i) for i in range(6)]},
    {"text": " ".join(say(3, i) for i in range(6))},
  ]
  (source / "b.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
  line = [
    "text",
    "--source",
    str(source),
    "--out",
    str(at / "out"),
    "--test_share",
    "0",
  ]
  assert command.main([*line, "--vocab_size", "120", "--processes", "1"]) == 0
  words = vocabularies.build({"name": "wordpiece", "file": str(at / "out/vocab.txt")})
  return at / "out", words


def said(words, ids):
  return [tuple(t.split()) for t in words.decode(ids).split(".") if t.strip()]


def test_documents_of_both_forms_are_stored(corpus):
  out, _ = corpus
  table = index.load(out, "train")
  np.testing.assert_array_equal(table.columns["num_sentences"], [6] * 4)
  assert index.read_info(out)["kind"] == "text"


def test_pairs_follow_or_come_from_another_document(corpus):
  out, words = corpus
  spec = dict(task="sentences", dir=str(out), split="train", rows=10, max_words=32)
  stream, seen, kept = batches.build(spec, vocab=words), [], {}
  for _ in range(12):
    batch = next(stream)
    contract.check(batch)
    for i in range(10):
      ids, mask = batch["text_ids"][i], batch["text_mask"][i]
      types = batch["text_types"][i]
      assert ids[0] == words.spec.cls_id
      assert (ids[mask] == words.spec.sep_id).sum() == 2
      assert ids[mask][-1] == words.spec.sep_id
      assert not types[~mask].any()
      first, second = (
        said(words, [t for t in ids[mask & (types == k)] if t > words.spec.mask_id])
        for k in (0, 1)
      )
      match, thing = int(batch["match"][i]), THINGS[int(batch["group_id"][i])]
      seen.append(match)
      assert {s[1] for s in first} == {thing}
      assert len({s[1] for s in second}) == 1
      if match:
        after = NUMBERS.index(first[-1][0]) + 1
        assert second[0] == (NUMBERS[after], thing)
      else:
        assert second[0][1] != thing
      kept.setdefault(int(batch["example_id"][i]), set()).add((match, *first))
  assert 0.3 < np.mean(seen) < 0.7
  assert len(kept) == 20
  assert max(len(v) for v in kept.values()) > 1  # drawn anew each epoch
  # Evaluation is the same every time.
  once, again = (
    [b["match"] for b in batches.evaluation(spec, vocab=words)] for _ in "ab"
  )
  np.testing.assert_array_equal(once, again)


def test_plain_rows_run_on(corpus):
  out, words = corpus
  spec = dict(task="sentences", dir=str(out), split="train", rows=24, unit="plain")
  (batch,) = list(batches.evaluation(spec | {"max_words": 11}, vocab=words))
  contract.check(batch)
  assert "match" not in batch
  assert batch["example_mask"].all()
  row = int(np.flatnonzero(batch["group_id"] == 2)[1])
  ids = batch["text_ids"][row][batch["text_mask"][row]]
  assert len(ids) == 11
  want = words.encode("two star . three star . four star .")
  assert ids[1:-1].tolist() == want
  last = batch["text_ids"][-1][batch["text_mask"][-1]]
  assert last[1:-1].tolist() == words.encode("six ring .")


def test_mistakes_are_told(corpus, tmp_path):
  out, words = corpus
  spec = dict(task="sentences", dir=str(out), split="train", rows=2)
  with pytest.raises(UserError, match="8 or more"):
    batches.evaluation(spec | {"max_words": 3}, vocab=words)
  with pytest.raises(UserError, match="Known: pairs, plain"):
    batches.evaluation(spec | {"unit": "pair"}, vocab=words)
  (tmp_path / "x.txt").write_bytes(b"caf\xe9 is no UTF-8\n")
  with pytest.raises(UserError, match="no UTF-8"):
    text.prepare(tmp_path, tmp_path / "out", quiet=True)
  (tmp_path / "x.txt").rename(tmp_path / "x.bin")
  with pytest.raises(UserError, match="file"):
    text.prepare(tmp_path, tmp_path / "out", quiet=True)
  (tmp_path / "y.jsonl").write_text('{"words": 3}\n')
  with pytest.raises(UserError, match=r"y\.jsonl:1 is no document"):
    text.prepare(tmp_path, tmp_path / "out", quiet=True)
