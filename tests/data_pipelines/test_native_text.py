"""The pipeline's tokenisers in TensorFlow give the ids and word ids of Python's."""

import random

import numpy as np
import pytest
import tensorflow as tf
import tokenizers
from tokenizers import pre_tokenizers

from data_pipelines import index, vocabularies
from data_pipelines.tasks import known_texts, text
from data_pipelines.transforms import bpe
from data_pipelines.vocabularies import clip_bpe, sentencepiece, words
from tests.reference import byte_pairs as reference
from tests.reference import published
from vlp_jax.errors import UserError

HARD = reference.HARD


def noise(count, seed=0):
  """Texts of odd characters, of letters that merge, of white space."""
  draw = random.Random(seed)
  signs = "ab aab  \n\t'stSdré\u0301123!?日本ñΣ\u00a0\x00\ufeff🤖क"
  return ["".join(draw.choices(signs, k=draw.randint(1, 40))) for _ in range(count)]


def same(vocab, texts):
  run = tf.function(text.numbered(vocab), [tf.TensorSpec([None], tf.string)])
  ids, places = run(tf.constant([t.encode() for t in texts]))
  assert ids.to_list() == [vocab.encode(t) for t in texts]
  assert places.to_list() == [vocab.word_ids(t) for t in texts]
  assert run(tf.constant([], tf.string))[0].to_list() == []
  one = text.tokenizer(vocab)(tf.constant(["the red ring"])).to_list()
  assert one == [vocab.encode("the red ring")]


@pytest.mark.parametrize(
  ("name", "rules"),
  [
    ("bert", {}),
    ("roberta", {}),
    ("roberta", {"add_prefix_space": True}),
    ("merlot", {}),
    ("clip", {}),
    ("t5", {"extra_ids": 100}),
    ("small", {}),
  ],
)
def test_native_ids_of_published_vocabularies(name, rules):
  same(published.load(name, **rules), [*HARD, *noise(80)])


@pytest.mark.parametrize("name", ["byte_bpe", "wordpiece", "sentencepiece", "words"])
def test_native_ids_of_learned_vocabularies(name):
  size = {"byte_bpe": 400, "sentencepiece": 60}.get(name, 200)
  same(vocabularies.learn(name, noise(50, seed=1), size=size), [*HARD, *noise(50)])


def test_native_ids_of_repeated_letters():
  # Places of one pair overlap; every other one is merged, from the left.
  v = clip_bpe.Vocabulary([("a", "a"), ("aa", "aa"), ("a", "a</w>"), ("b", "aa")])
  same(v, ["a" * n for n in range(1, 20)] + ["ba" * 5, "b" + "a" * 7 + "b" + "a" * 6])


def test_native_ids_of_moved_sentencepieces(tmp_path):
  model = published.trained(tmp_path, user_defined_symbols=["<mask>"])
  v = sentencepiece.load(model)
  same(v, [*HARD, "a <mask> ring"])
  moved = sentencepiece.load(published.trained(tmp_path), layout="fairseq")
  same(moved, [*HARD, "a <mask> ring"])


def test_native_stop_words():
  same(words.Vocabulary(["the", "red", "ring"], stop_words=["the"]), ["the red x ring"])


def test_bytes_that_are_no_utf8_are_dropped():
  v = published.load("gpt2")
  got = text.tokenizer(v)(tf.constant([b"a\xff b\xc3", b"\xff"])).to_list()
  assert got == [v.encode("a b"), []]


def test_character_classes_equal_the_librarys():
  """Every code point below the private planes: letters, numbers and white space."""
  assigned = (*range(0xD800), *range(0xF900, 0x34000), *range(0xE0000, 0xE0200))
  signs = [chr(c) for c in assigned]
  encoded = tf.constant([c.encode() for c in signs])
  for native, expression in (
    (bpe.LETTER, r"\p{L}"),
    (bpe.NUMBER, r"\p{N}"),
    (bpe.SPACE, r"\s"),
  ):
    split = pre_tokenizers.Split(tokenizers.Regex(expression), "removed", invert=True)
    places = split.pre_tokenize_str("".join(signs))
    want = np.zeros(len(signs), bool)
    for _, (first, last) in places:
      want[first:last] = True
    got = tf.strings.regex_full_match(encoded, f"[{native}]").numpy()
    np.testing.assert_array_equal(got, want)


def test_marks_are_those_of_the_vocabulary():
  def padded(name, length=6):
    v = published.load(name)
    ids, mask = text.pad(text.tokenizer(v)(tf.constant(["a cat", ""])), v, length)
    words, marks = len(v.encode("a cat")), text.marks(v)
    assert mask.numpy().sum(1).tolist() == [words + marks, marks]
    long, full = text.pad(text.tokenizer(v)(tf.constant(["cat " * 20])), v, length)
    assert full.numpy().all()
    return ids[0].numpy().tolist(), int(long[0, -1])

  assert padded("clip") == ([49_406, 320, 2368, 49_407, 49_407, 49_407], 49_407)
  assert padded("roberta") == ([0, 102, 4758, 2, 1, 1], 2)
  assert padded("bert") == ([101, 1037, 4937, 102, 0, 0], 102)
  assert padded("t5") == ([3, 9, 1712, 1, 0, 0], 1)


def test_known_texts(tmp_path):
  pytest.importorskip("ftfy")
  v = published.load("clip", clean="ftfy")
  with pytest.raises(UserError, match="known_texts"):
    text.tokenizer(v)
  given = ["it\u2019s red", "caf\u00c3\u00a9 &amp; bar", "", "it\u2019s red"]
  with index.ShardWriter(tmp_path, "train", 1) as shards:
    for one in given:
      shards.write(0, one.encode())
  table = index.load(tmp_path, "train")
  texts = known_texts.collect(table, lambda record: record[None])
  assert texts == sorted({t.encode() for t in given})
  run = tf.function(known_texts.numbered(v, texts))
  ids, places = run(tf.constant([t.encode() for t in given]))
  assert ids.to_list() == [v.encode(t) for t in given]
  assert places.to_list() == [v.word_ids(t) for t in given]
  with pytest.raises(tf.errors.InvalidArgumentError, match="not scanned"):
    run(tf.constant(["other"]))
