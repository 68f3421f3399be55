"""Vocabulary files: learned, saved, loaded, damaged, hostile."""

import gzip
import json
import os
import pathlib
import random
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import vocabularies
from data_pipelines.vocabularies import (
  byte_bpe,
  clip_bpe,
  files,
  sentencepiece,
  wordpiece,
)
from tests import helpers
from tests.reference import byte_pairs as reference
from tests.reference import published
from vlp_jax.errors import UserError

HARD = [*reference.HARD, "half \ud83d a pair"]


# ---- learned ------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["byte_bpe", "sentencepiece"])
def test_learned_ones_save_load_and_do_not_depend_on_the_order(tmp_path, name):
  size = {"byte_bpe": 290, "sentencepiece": 40}[name]
  lines = list(published.LINES)
  v = vocabularies.learn(name, lines, size=size)
  random.Random(0).shuffle(lines)
  assert vocabularies.learn(name, lines, size=size).digest == v.digest
  assert v.spec.size <= size
  assert min(v.spec.cls_id, v.spec.sep_id, v.spec.mask_id, v.spec.pad_id) >= 0
  v.save(tmp_path / "vocab.bin")
  again = vocabularies.build({"name": name, "file": str(tmp_path / "vocab.bin")})
  assert (again.tokens, again.digest, again.spec) == (v.tokens, v.digest, v.spec)
  for text in published.LINES:
    assert again.encode(text) == v.encode(text)
    assert v.spec.unk_id not in v.encode(text)
    assert v.decode(v.encode(text)) == text
  for text in [*HARD, *published.HIDDEN]:
    assert not set(v.spec.special_ids) - {v.spec.unk_id} & set(v.encode(text))
  with pytest.raises(UserError, match="no text"):
    vocabularies.learn(name, ["", ""])


def test_learning_is_the_same_in_every_process():
  # The libraries seed their hash maps anew in each process; ties between merges abound.
  code = (
    "from data_pipelines import vocabularies as v\n"
    "texts = ['abcd bcda cdab dabc', 'efgh fghe ghef hefg'] * 4\n"
    "print(v.learn('byte_bpe', texts, size=280).digest)\n"
    "print(v.learn('sentencepiece', texts, size=30).digest)"
  )
  env = os.environ | {"PYTHONPATH": str(helpers.ROOT)}
  run = [sys.executable, "-c", code]
  got = {
    subprocess.run(run, env=env, check=True, capture_output=True).stdout
    for _ in range(2)
  }
  assert len(got) == 1


def test_clip_is_saved_and_not_learned(tmp_path):
  v = clip_bpe.Vocabulary([("a", "b</w>"), ("c", "ab</w>")])
  assert v.spec.size == 516
  assert v.encode("CAB ab") == [513, 512]
  for name in ("merges.txt", "merges.txt.gz"):
    v.save(tmp_path / name)
    again = clip_bpe.load(str(tmp_path / name), size=0)
    assert again.digest == v.digest
  with pytest.raises(UserError, match="has 2 merges; size=49408"):
    clip_bpe.load(str(tmp_path / name))
  with pytest.raises(UserError, match="only read"):
    vocabularies.learn("clip_bpe", published.LINES)


# ---- damaged and hostile files ------------------------------------------------------
def pair(tmp_path, ids, merges="#version: 0.2\n"):
  text = ids if isinstance(ids, str) else json.dumps(ids)
  (tmp_path / "vocab.json").write_text(text)
  (tmp_path / "merges.txt").write_text(merges)
  return str(tmp_path / "vocab.json")


LETTERS = {c: i for i, c in enumerate(sorted(reference.visible().values()))}
NONE = "#version: 0.2\n"
GOOD = LETTERS | {"<|endoftext|>": 256}


@pytest.mark.parametrize(
  ("ids", "merges", "message"),
  [
    ("{", NONE, "not JSON"),
    ("[1]", NONE, "no JSON object"),
    ({"a": "0"}, NONE, "no JSON object"),
    ({"a": 0, "b": 2}, NONE, "ids are not 0 to 1"),
    (LETTERS, NONE, r"lacks <\|endoftext\|> \(gpt2\)"),
    ({"<|endoftext|>": 0, "a": 1}, NONE, "lacks 255 of the 256 byte tokens"),
    (GOOD, "#version: 0.2\na b c\n", "line 2: 'a b c' is no pair"),
    (GOOD, "#version: 0.2\na b\n", "merge 0, 'a' 'b', is of tokens that it lacks"),
    (GOOD | {"<|": 257, "endoftext|>": 258}, "<| endoftext|>\n", "text can make"),
  ],
)
def test_bad_byte_pair_files_are_one_line(tmp_path, ids, merges, message):
  with pytest.raises(UserError, match=message) as error:
    byte_bpe.load(pair(tmp_path, ids, merges))
  assert "\n" not in str(error.value)


def test_bad_models_and_archives_are_one_line(tmp_path):
  path = tmp_path / "bad.model"
  t5 = pathlib.Path(published.file("t5")).read_bytes()
  for data in (b"<html>", t5[:100_000], b"\0" * 100, b""):
    path.write_bytes(data)
    with pytest.raises(UserError, match="model") as error:
      sentencepiece.Vocabulary(data, what=str(path))
    assert "\n" not in str(error.value)
  whole = gzip.compress(b"#version: 0.2\n" + b"a b\n" * 1000)
  for data, message in (
    (whole[:-20], "cut off"),
    (whole[:20] + b"\xff" * 40, "damaged|cut off"),
    (b"\x1f\x8b" + b"x" * 50, "damaged"),
  ):
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
      clip_bpe.load(str(path))


def test_a_packed_bomb_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(files, "MAX_BYTES", 1 << 20)
  (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"\0" * (1 << 22)))
  with pytest.raises(UserError, match="unpacks to over"):
    clip_bpe.load(str(tmp_path / "bomb.gz"))
  (tmp_path / "large.txt").write_bytes(b"a" * (1 << 21))
  with pytest.raises(UserError, match="has at most"):
    wordpiece.load(str(tmp_path / "large.txt"))


class Canary:
  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return open, (self.path, "w")


def test_pickled_dictionaries_are_refused_and_run_nothing(tmp_path):
  canary = tmp_path / "canary"
  for name, content in (
    ("code.npy", np.array(["red", Canary(str(canary))], object)),
    ("objects.npy", np.array(["red", "ring"], object)),
  ):
    np.save(tmp_path / name, content, allow_pickle=True)
    with pytest.raises(UserError, match="can carry code"):
      vocabularies.build({"name": "words", "file": str(tmp_path / name)})
  assert not canary.exists()


def test_stop_words_and_word_ids(tmp_path):
  (tmp_path / "words.txt").write_text("the\nred\nring\n")
  (tmp_path / "stop.txt").write_text("the\nof\n")
  config = {"name": "words", "file": str(tmp_path / "words.txt")}
  v = vocabularies.build(config)
  assert (v.encode("The ring zz red"), v.word_ids("The ring zz red")) == (
    [1, 3, 2],
    [0, 1, 3],
  )
  stopped = vocabularies.build(config | {"stop_words": str(tmp_path / "stop.txt")})
  assert stopped.encode("the ring of red") == [3, 2]
  assert stopped.word_ids("the ring of red") == [1, 3]
  assert stopped.spec.size == v.spec.size
  assert stopped.digest != v.digest


def test_digests_tell_every_rule():
  tokens = [*wordpiece.SPECIALS, "a", "!"]
  all_of = [
    wordpiece.Vocabulary(tokens),
    wordpiece.Vocabulary(tokens, strip_accents=False),
    wordpiece.Vocabulary(tokens, chinese=False),
    wordpiece.Vocabulary(tokens, max_chars=50),
    *(published.load(name) for name in ("gpt2", "roberta", "merlot", "clip", "t5")),
    clip_bpe.Vocabulary([("a", "b")]),
    clip_bpe.Vocabulary([("a", "b"), ("c", "d")]),
  ]
  assert len({v.digest for v in all_of}) == len(all_of)
  same = wordpiece.Vocabulary(tokens, strip_accents=True, max_chars=100)
  assert same.digest == all_of[0].digest


def test_it_works_with_tensorflow_blocked():
  code = (
    "import sys, pkgutil, importlib\n"
    "for name in ('tensorflow', 'tensorflow_text', 'seqio', 'jax'):\n"
    "  sys.modules[name] = None\n"
    "import data_pipelines.vocabularies as v, data_pipelines.media as m\n"
    "for p in (v, m):\n"
    "  for x in pkgutil.iter_modules(p.__path__):\n"
    "    importlib.import_module(f'{p.__name__}.{x.name}')\n"
    "for name in ('wordpiece', 'byte_bpe', 'sentencepiece', 'words'):\n"
    "  size = 300 if name == 'byte_bpe' else 30\n"
    "  assert v.learn(name, ['a ring falls'] * 9, size=size).encode('a ring')\n"
  )
  env = os.environ | {"PYTHONPATH": str(helpers.ROOT)}
  subprocess.run([sys.executable, "-c", code], env=env, check=True)
