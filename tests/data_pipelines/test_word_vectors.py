"""Word vectors: every published form, damage, and headers that declare too much."""

import gzip
import resource
import struct

import numpy as np
import pytest

from data_pipelines.vocabularies import word_vectors
from vlp_jax.errors import UserError

WORDS = ["red", "ring", "né", ". .", "none"]
ROWS = {"red": [0.5, -1, 2], "zz": [9, 9, 9], "né": [1e-3, 0, 7], "ring": [3, 2, 1]}
WANT = np.array([ROWS["red"], ROWS["ring"], ROWS["né"]], np.float32)


def lines(rows, header=True, end="\n"):
  first = f"{len(rows)} 3\n" if header else ""
  return (
    first + "".join(f"{w} {' '.join(map(str, v))}{end}" for w, v in rows.items())
  ).encode()


def binary(rows, end=b""):
  body = (
    w.encode() + b" " + np.array(v, "<f4").tobytes() + end for w, v in rows.items()
  )
  return f"{len(rows)} 3\n".encode() + b"".join(body)


@pytest.mark.parametrize(
  ("name", "data"),
  [
    ("word2vec.txt", lines(ROWS)),
    ("wiki.vec", lines(ROWS, end=" \n")),
    ("glove.txt", lines(ROWS, header=False)),
    ("windows.txt", lines(ROWS, header=False, end="\r\n")),
    ("google.bin", binary(ROWS)),
    ("original.bin", binary(ROWS, end=b"\n")),
    ("google.bin.gz", gzip.compress(binary(ROWS), mtime=0)),
    ("wiki.vec.gz", gzip.compress(lines(ROWS), mtime=0)),
  ],
)
@pytest.mark.parametrize("chunk", [1, 1 << 20])
def test_every_form(tmp_path, monkeypatch, name, data, chunk):
  monkeypatch.setattr(word_vectors, "_CHUNK", chunk)
  (tmp_path / name).write_bytes(data)
  table, seen = word_vectors.read(tmp_path / name, WORDS)
  assert table.dtype == np.float32
  np.testing.assert_array_equal(table[:3], WANT)
  np.testing.assert_array_equal(seen, [True, True, True, False, False])
  assert not table[3:].any()


def test_words_with_spaces_and_words_that_come_twice(tmp_path):
  text = "red 1 2 3\n. . 4 5 6\nred 7 8 9\n"
  (tmp_path / "glove.txt").write_text(text)
  table, seen = word_vectors.read(tmp_path / "glove.txt", WORDS)
  np.testing.assert_array_equal(table[0], [1, 2, 3])
  np.testing.assert_array_equal(table[3], [4, 5, 6])
  assert seen.tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
  ("name", "data", "message"),
  [
    ("a.txt", b"red 1 2\nring 1\n", "line 2: 1 values for 'ring'; expected 2"),
    ("a.txt", b"red 1 x\n", "line 1: 2 values for 'red'; expected 2 numbers"),
    ("a.txt", b"red\n", "line 1 has 0 values"),
    ("a.txt", b"red 1 nan\n", "not finite"),
    ("a.txt", b"blue 1 2\n", "none of 5"),
    ("a.txt", b"", "none of 5"),
    ("a.txt", b"x" * (1 << 19), "longer than"),
    ("a.txt", lines(ROWS)[:-20], "has 3 vectors; its first line says 4|values for"),
    ("a.txt", b"3000000 300\nred 1\n", "declares 3000000 vectors of width 300"),
    ("a.txt", b"1 999999999999\nred 1\n", "of width 999999999999"),
    ("a.txt", b"0 3\nred 1 2 3\n", "declares 0"),
    ("a.bin", binary(ROWS)[:-5], "cut off or damaged: 3 of 4"),
    ("a.bin", b"999999999 300\n" + b"x" * 100, "declares 999999999"),
    ("a.bin", b"red 1 2 3\n", "does not begin with"),
    ("a.bin", b"1 4\n" + b"x" * 9000, "cut off or damaged: 0 of 1"),
    ("a.bin", struct.pack("<ii", 793_712_314, 12) + b"x" * 50, "fastText model"),
    ("a.txt", gzip.compress(lines(ROWS) * 9, mtime=0)[:-30], "damaged or cut off"),
    ("a.bin.gz", gzip.compress(b"99999999 300\nx", mtime=0), "declares"),
  ],
)
def test_damage_is_one_line(tmp_path, name, data, message):
  (tmp_path / name).write_bytes(data)
  with pytest.raises(UserError, match=message) as error:
    word_vectors.read(tmp_path / name, WORDS)
  assert "\n" not in str(error.value)


def test_missing_file(tmp_path):
  with pytest.raises(UserError, match="are missing"):
    word_vectors.read(tmp_path / "none.txt", WORDS)


def test_a_packed_bomb_takes_no_memory(tmp_path):
  path = tmp_path / "bomb.txt.gz"
  with gzip.open(path, "wb", compresslevel=1) as f:
    for _ in range(64):
      f.write(b"\0" * (1 << 22))  # 256 MiB without a line end
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  with pytest.raises(UserError, match="longer than"):
    word_vectors.read(path, WORDS)
  after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  assert after - before < 50_000  # kB
