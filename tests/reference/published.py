"""Published vocabularies of the shared data, and small models, for several tests."""

import functools
import gzip

import sentencepiece

from data_pipelines import vocabularies
from tests import helpers

FILES = {
  "bert": "bert-base-uncased-vocab.txt",
  "roberta": "roberta-base-vocab.json",
  "gpt2": "gpt2_encoder.json",
  "merges": "gpt2_vocab.bpe",
  "clip": "clip_bpe_simple_vocab_16e6.txt.gz",
  "t5": "t5-base-spiece.model",
  "small": "dmvr_spiece_1000.model",
}
LINES = ["the red ring spins .", "the red square falls", "a ring and a RED heart"] * 4
HIDDEN = ["[MASK]", "[SEP]", "<|endoftext|>", "<|startoftext|>", "<s>", "</s>", "<pad>"]
HIDDEN += ["<mask>", "\x00", "\u200b", "\u202e", "<extra_id_0>", "<unk>", "[PAD]"]


def file(name):
  """The path; the test is skipped without the file."""
  return str(helpers.shared(f"data/vocab/{FILES[name]}"))


def lines(name):
  with open(file(name), "rb") as f:
    data = f.read()
  data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
  return data.decode().split("\n")


@functools.cache
def load(name, **keywords):
  if name in ("gpt2", "roberta", "merlot"):
    of = "roberta" if name == "roberta" else "gpt2"
    given = dict(name="byte_bpe", file=file(of), merges=file("merges"), layout=name)
  elif name in ("t5", "small"):
    given = dict(name="sentencepiece", file=file(name))
  else:
    given = dict(name={"bert": "wordpiece", "clip": "clip_bpe"}[name], file=file(name))
  return vocabularies.build(given | keywords)


def trained(tmp_path, **keywords):
  """The path of a SentencePiece model with the ids of its library."""
  prefix = str(tmp_path / "own")
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(LINES * 5),
    model_prefix=prefix,
    vocab_size=40,
    hard_vocab_limit=False,
    minloglevel=3,
    **keywords,
  )
  return f"{prefix}.model"
