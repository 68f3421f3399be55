"""Vocabularies: right ids, no special ids out of text, learned ones repeatable."""

import os
import random
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import vocabularies
from data_pipelines.vocabularies import wordpiece, words
from tests import helpers
from vlp_jax.errors import UserError

SPECIALS = list(wordpiece.SPECIALS)
TOKENS = [*SPECIALS, "[unused0]", "!", "a", "walk", "##ing", "##s", "##!", "[", "]"]
TEXTS = ["The red ring spins .", "the red square falls", "a ring and a RED heart"] * 3

# What a caption may hold; none may give a special id (but the unknown word's).
HOSTILE = [
  "[MASK]",
  "a [SEP] b [CLS] c [PAD] d",
  "[mask] [UNK] [unused0] ##ing",
  "[MA\u200bSK] [\u200dMASK] [MASK\u00ad]",
  "nul\x00in\x00side [\x00MASK\x00]",
  "\u202e]KSAM[ \u202d\u2066[MASK]\u2069",
  "</s> <pad> <mask> <0x00>",
  "half \ud83d a pair",
  "",
  "   \t\n",
  "x" * 100_000,
  "e\u0301\u0300\u0302" * 50,
]


def bert():
  return vocabularies.build(
    {
      "name": "wordpiece",
      "file": str(helpers.shared("data/vocab/bert-base-uncased-vocab.txt")),
    }
  )


def test_bert_base_uncased():
  v = bert()
  assert v.spec.size == len(v.tokens) == 30_522
  ids = v.spec.pad_id, v.spec.unk_id, v.spec.cls_id, v.spec.sep_id, v.spec.mask_id
  assert ids == (0, 100, 101, 102, 103)
  assert v.spec.special_ids == (0, 100, 101, 102, 103)
  assert v.spec.valid_range == (999, 30_522)
  assert not v.cased
  # The examples of BERT's own tokenizer: basic splitting, lower case, accents, pieces.
  text = " \tHeLLo!how  \n Are yoU?  H\u00e9llo unaffable"
  got = [v.tokens[i] for i in v.encode(text)]
  want = ["hello", "!", "how", "are", "you", "?", "hello", "una", "##ffa", "##ble"]
  assert got == want
  assert v.decode(v.encode(text)) == "hello ! how are you ? hello unaffable"
  assert v.encode_all(["how", "are you"]) == [v.encode("how"), v.encode("are you")]


def test_it_agrees_with_tensorflow_text():
  tf_text = pytest.importorskip("tensorflow_text")
  v, texts = (
    bert(),
    [t for t in HOSTILE[:3] if t] + [*TEXTS, "na\u00efve caf\u00e9s, 日本!"],
  )
  table = str(helpers.shared("data/vocab/bert-base-uncased-vocab.txt"))
  other = tf_text.BertTokenizer(table, lower_case=True).tokenize(texts)
  assert other.merge_dims(-2, -1).to_list() == v.encode_all(texts)


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_special_id_comes_out_of_text(text):
  learned = [vocabularies.learn("wordpiece", [*TEXTS, *HOSTILE[:8]], size=120)]
  learned += [wordpiece.Vocabulary(TOKENS), wordpiece.Vocabulary(TOKENS, cased=True)]
  for v in learned:
    ids = set(v.encode(text))
    assert not ids & (set(v.spec.special_ids) - {v.spec.unk_id})
    assert not any(v.tokens[i].startswith("[unused") for i in ids)
  assert 0 not in words.Vocabulary(["a", "mask", "sep"]).encode(text)


def test_wordpiece_hostile_text_in_bert():
  v = bert()
  for text in HOSTILE:
    assert not set(v.encode(text)) & {0, 101, 102, 103}
  assert v.decode([101, *v.encode("a ring"), 102, 0, 0]) == "a ring"


def test_wordpiece_pieces_and_case():
  v = wordpiece.Vocabulary(TOKENS)
  assert v.encode("walking WALKS a") == [8, 9, 8, 10, 7]
  assert v.encode("[MASK]") == [12, 1, 13]
  assert v.spec.valid_range == (6, 14)
  assert v.encode("flying") == [1]
  cased = wordpiece.Vocabulary([*TOKENS, "Walk"])
  assert cased.cased
  assert cased.encode("Walking walk WALK") == [14, 9, 8, 1]
  without = [t for t in TOKENS if t != "!"]
  assert wordpiece.Vocabulary(without).spec.valid_range == (6, 13)


def test_digest_tells_tokens_order_and_case():
  changed = [*TOKENS[:7], TOKENS[8], TOKENS[7], *TOKENS[9:]]
  all_of = [
    wordpiece.Vocabulary(TOKENS),
    wordpiece.Vocabulary(TOKENS, cased=True),
    wordpiece.Vocabulary(changed),
    words.Vocabulary(TOKENS),
  ]
  assert len({v.digest for v in all_of}) == 4
  assert all(v.spec.digest == v.digest and len(v.digest) == 64 for v in all_of)


@pytest.mark.parametrize(
  ("text", "message"),
  [
    ("a\nb\na\n", "'a' stands in lines 1 and 3"),
    ("a\n\nb\n", "line 2 is blank"),
    ("", "line 1 is blank"),
    ("[PAD]\n[UNK]\na\n", r"lacks \[CLS\], \[SEP\], \[MASK\]"),
    ("\n".join(SPECIALS), "only special tokens"),
    (b"\xff\xfe\x00", "not UTF-8"),
  ],
)
def test_bad_files_are_one_line(tmp_path, text, message):
  path = tmp_path / "vocab.txt"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  with pytest.raises(UserError, match=message) as error:
    vocabularies.build({"name": "wordpiece", "file": str(path)})
  assert "\n" not in str(error.value)


def test_build_names_what_is_known(tmp_path):
  with pytest.raises(UserError, match="wordpiece"):
    vocabularies.build({"name": "wordpeice", "file": "a"})
  with pytest.raises(UserError, match="Did you mean 'file'"):
    vocabularies.build({"name": "words", "fille": "a"})
  with pytest.raises(UserError, match="is missing"):
    vocabularies.build({"name": "words", "file": str(tmp_path / "none.txt")})
  with pytest.raises(UserError, match=r"vocab\.name"):
    vocabularies.build({"name": "files"})


@pytest.mark.parametrize("name", ["wordpiece", "words"])
def test_learned_ones_save_load_and_do_not_depend_on_the_order(tmp_path, name):
  texts = list(TEXTS)
  v = vocabularies.learn(name, texts)
  random.Random(0).shuffle(texts)
  assert vocabularies.learn(name, texts).tokens == v.tokens
  v.save(tmp_path / "vocab.txt")
  v.save(tmp_path / "vocab.txt")  # over the first
  again = vocabularies.build({"name": name, "file": str(tmp_path / "vocab.txt")})
  assert again.tokens == v.tokens
  assert again.digest == v.digest
  assert again.spec == v.spec
  assert [p.name for p in tmp_path.iterdir()] == ["vocab.txt"]
  for text in TEXTS:
    assert v.spec.unk_id not in v.encode(text)


def test_wordpiece_learning_is_the_same_in_every_process():
  # The library seeds its hash maps anew in each process; ties between merges abound.
  code = (
    "from data_pipelines import vocabularies as v\n"
    "texts = ['abcd bcda cdab dabc', 'efgh fghe ghef hefg'] * 4\n"
    "print(v.learn('wordpiece', texts, size=60).digest)"
  )
  env = os.environ | {"PYTHONPATH": str(helpers.ROOT)}
  got = {
    subprocess.run(
      [sys.executable, "-c", code], env=env, check=True, capture_output=True
    ).stdout
    for _ in range(3)
  }
  assert len(got) == 1


def test_wordpiece_size_is_kept():
  v = vocabularies.learn("wordpiece", TEXTS, size=60)
  assert v.spec.size <= 60
  assert list(v.tokens[:5]) == SPECIALS
  with pytest.raises(UserError, match="size is 10"):
    vocabularies.learn("wordpiece", TEXTS, size=10)
  with pytest.raises(UserError, match="no text"):
    vocabularies.learn("wordpiece", ["", " "])


def test_words_ids_and_learning():
  v = vocabularies.learn("words", ["b a b", "c don't a b", "C"])
  assert v.tokens == ("", "b", "a", "c", "don't")
  assert v.encode("A zzz don't, b!") == [2, 4, 1]
  assert v.decode([2, 0, 4]) == "a don't"
  assert v.spec.pad_id == v.spec.unk_id == 0
  assert v.spec.valid_range == (1, 5)
  assert vocabularies.learn("words", ["b a b"], min_count=2).tokens == ("", "b")
  assert vocabularies.learn("words", ["b a b"], size=2).tokens == ("", "b")
  exact = words.Vocabulary(["red"], cased=True)
  assert exact.encode("Red red") == [1]
  with pytest.raises(UserError, match="no word occurs 9 times"):
    vocabularies.learn("words", ["b a b"], min_count=9)


def test_words_dict_npy(tmp_path):
  np.save(tmp_path / "dict.npy", np.array(["red", "ring"]))
  config = {"name": "words", "file": str(tmp_path / "dict.npy")}
  assert vocabularies.build(config).encode("ring red blue") == [2, 1]
  np.save(tmp_path / "bad.npy", np.array(["red", {}], object), allow_pickle=True)
  with pytest.raises(UserError, match="can carry code"):
    vocabularies.build(config | {"file": str(tmp_path / "bad.npy")})
  np.save(tmp_path / "numbers.npy", np.zeros((2, 2)))
  with pytest.raises(UserError, match="expected"):
    vocabularies.build(config | {"file": str(tmp_path / "numbers.npy")})


def test_words_vectors(tmp_path):
  v = words.Vocabulary(["red", "ring", "none"])
  path = tmp_path / "vectors.txt"
  path.write_text("3 2\nring 0.5 -1\nother 1 1\nred 2 3\n")
  want = np.array([[0, 0], [2, 3], [0.5, -1], [0, 0]], np.float32)
  np.testing.assert_array_equal(v.vectors(path), want)
  assert v.vectors(path).dtype == np.float32
  path.write_text("red 1 2\nring 1\n")
  with pytest.raises(UserError, match="line 2: 1 values for 'ring'; expected 2"):
    v.vectors(path)
  path.write_text("blue 1 2\n")
  with pytest.raises(UserError, match="none of 3"):
    v.vectors(path)


def test_no_tensorflow():
  code = (
    "import sys, data_pipelines.vocabularies as v\n"
    "import data_pipelines.vocabularies.wordpiece, data_pipelines.vocabularies.words\n"
    "import data_pipelines.prepare.narrated\n"
    "assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules)"
  )
  env = os.environ | {"PYTHONPATH": str(helpers.ROOT)}
  subprocess.run([sys.executable, "-c", code], env=env, check=True)
