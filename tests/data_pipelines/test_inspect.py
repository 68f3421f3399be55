"""Inspection: numbers on the terminal, and a page without a reference to outside."""

import re

import numpy as np
import pytest

from data_pipelines import contact_sheet, index, inspect, records
from tests.reference import shards


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  at = shards.statements(tmp_path_factory.mktemp("texts"), 60)
  shards.pieces().save(at / "vocab.txt")
  info = index.read_info(at)
  names = ["background", *(f"thing <{k}>" for k in range(1, 10))]
  more = {"vocab": {"name": "wordpiece", "file": "vocab.txt"}, "licence": "CC0"}
  index.write_info(at, info | more | {"classes": {"objects": names}})
  return at


def test_counts_lengths_ladder_and_packing(texts, capsys):
  assert inspect.main([str(texts), "--tokens=640", "--pack=64"]) == 0
  out = capsys.readouterr().out
  size = sum(p.stat().st_size for p in texts.glob("*.tfrecord"))
  assert f"train: 60 examples in 2 shards, {size / 1e6:,.1f} MB; columns none" in out
  assert "licence: CC0" in out
  assert "classes.objects: 10: background, thing" in out
  words = np.array([1 + k * 7 % 23 for k in range(60)]) + 2
  regions = np.array([1 + k % 9 for k in range(60)])
  assert f"text: mean {words.mean():.1f}, {words.min()} to {words.max()}" in out
  assert f"regions: mean {regions.mean():.1f}, 1 to 9" in out
  total = words + regions
  assert f"tokens of an example: mean {total.mean():.1f}" in out
  bars = re.findall(r"^ +(\d+)-(\d+) +(\d+) #*$", out, re.MULTILINE)
  for low, high, n in ((int(a), int(b), int(c)) for a, b, c in bars):
    assert ((total >= low) & (total <= high)).sum() == n
  assert sum(int(n) for _, _, n in bars) == 60
  rungs = [int(x) for x in re.findall(r"^ +(\d+) tokens x", out, re.MULTILINE)]
  assert rungs == sorted(rungs)
  assert rungs[-1] >= total.max()
  assert re.search(r"packed into rows of 64: \d+\.\d% padding, \d\.\d examples", out)


def test_the_page_is_complete_and_escaped(texts, tmp_path, capsys):
  at = tmp_path / "sheet.html"
  assert inspect.main([str(texts), f"--html={at}", "--examples=7"]) == 0
  page = at.read_text()
  assert page.count("<article>") == 7
  assert "thing &lt;1&gt;" in page
  assert "<thing" not in page
  assert "thing <" not in page
  assert page.count("<rect") == sum(
    1 + k % 9 for k in order(inspect.spread(60, 7), num=60)
  )
  assert not re.search(r"https?://|src=\"(?!data:)|@import|url\(", page)
  assert "wrote" in capsys.readouterr().out


def order(places, num):
  """The statement that lies at each place of two shards."""
  return np.array([*range(0, num, 2), *range(1, num, 2)])[places]


def test_clips_show_frames_texts_and_sound(tmp_path, capsys):
  at, sheet = shards.clips(tmp_path / "clips", 6), tmp_path / "sheet.html"
  assert inspect.main([str(at), f"--html={sheet}", "--examples=2"]) == 0
  out = capsys.readouterr().out
  assert "video frames: mean 12.0, 12 to 12" in out
  assert "columns gallery, num_captions, num_narrations" in out
  assert "ladder" not in out  # all of one shape
  page = sheet.read_text()
  assert page.count('src="data:image/jpeg;base64,') == 2 * contact_sheet.FRAMES
  context, lists = records.decode(shards.clip(0)[0])
  card = contact_sheet.example(0, context, lists, {"shape": ["a", "b", "c"]})
  assert "label/shape: a" in card
  assert "sound: 3.0 s at 80 Hz" in card
  assert f"caption: {shards.sentence(0, 3)}" in card
  card = contact_sheet.example(1, *records.decode(shards.clip(1)[0]), {})
  assert f"narration (0.0 to 0.6 s): {shards.sentence(1, 2)}" in card


def test_mistakes_are_one_line(texts, tmp_path, capsys):
  assert inspect.main([str(tmp_path)]) == 2
  assert inspect.main([str(texts), "--split=tran"]) == 2
  table = index.load(shards.statements(tmp_path / "bent", 3), "train")
  shards.flip(table, 0)
  assert inspect.main([str(tmp_path / "bent")]) == 2
  told = capsys.readouterr().err.strip().splitlines()
  assert len(told) == 3
  assert "Did you mean 'train'" in told[1]
  assert "Run data_pipelines.validate" in told[2]


def test_the_histogram_covers_everything():
  for x in ([5], [1, 100], list(range(30)), [7, 7, 8]):
    bins = inspect.histogram(np.array(x))
    assert sum(n for _, _, n in bins) == len(x)
    assert bins[0][0] == min(x)
    assert bins[-1][1] >= max(x)
    assert len(bins) <= 12
