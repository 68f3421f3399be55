"""Validation finds every kind of damage and nothing else."""

import json

import numpy as np
import pytest

from data_pipelines import checks, index, records, validate
from tests.reference import shards


def lines(capsys):
  return capsys.readouterr().out.splitlines()


@pytest.fixture
def texts(tmp_path):
  return shards.statements(tmp_path / "texts", 12)


@pytest.mark.parametrize("processes", [1, 2])
def test_good_sets_pass(tmp_path, texts, capsys, processes):
  clips = shards.clips(tmp_path / "clips", 5)
  for at in (texts, clips) if processes == 1 else (clips,):
    given = [str(at), "--quiet", f"--processes={processes}"]
    assert validate.main(given) == 0
    (line,) = lines(capsys)
    assert line.endswith("0 bad, 0 other problems")


def test_bad_records_are_named_by_file_and_offset(texts, capsys):
  table = index.load(texts, "train")
  shards.flip(table, 2)  # payload
  shards.flip(table, 4, at=-12)  # length
  last = table.paths[1]
  last.write_bytes(last.read_bytes()[:-30])
  assert validate.main([str(texts), "--quiet"]) == 3
  found = lines(capsys)
  for record, reason in ((2, "checksum"), (4, "damaged length"), (11, "truncated")):
    name, offset = table.paths[table.file[record]].name, table.offset[record]
    (line,) = [x for x in found if x.startswith(f"{name} at {offset} (record {record}")]
    assert reason in line
  assert any(x.startswith(f"{last.name}: ") and "by its index" in x for x in found)
  assert found[-1].endswith("12 records, 3 bad, 1 other problems")


def test_index_counts_and_fingerprint_must_agree(texts, capsys):
  info = json.loads((texts / index.INFO).read_text())
  info["splits"]["train"]["num_examples"] = 13
  info["fingerprint"] = "0" * 64
  (texts / index.INFO).write_text(json.dumps(info))
  first = index.load(texts, "train").paths[0]
  with np.load(index.index_path(first)) as z:
    arrays = {k: z[k] for k in z.files}
  np.savez(index.index_path(first), **{k: x[1:] for k, x in arrays.items()})
  assert validate.main([str(texts), "--quiet"]) == 3
  found = "\n".join(lines(capsys))
  assert "11 records, 13 are declared" in found
  assert "fingerprint is of other shards" in found
  assert "leaves a gap" in found


def test_no_data_set_is_a_user_error(tmp_path, capsys):
  assert validate.main([str(tmp_path)]) == 2
  assert validate.main([]) == 2
  assert validate.main(["x", "--fast"]) == 2
  for line in capsys.readouterr().err.strip().splitlines():
    assert line.startswith("error: ")
  with pytest.raises(SystemExit, match="0"):
    validate.main(["--help"])


def statement(**change):
  context, lists = records.decode(shards.statement(3))
  return context | change, lists


def boxes(value):
  return {"regions/boxes": [np.full((4, 7), value, "<f4").tobytes()]}


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"key": []}, "no key"),
    ({"text": [b"  "]}, "text is empty"),
    ({"text": [b"\xff"]}, "text is not UTF-8"),
    ({"text": [b"a\0b"]}, "NUL"),
    ({"text": [b"x" * 200_000]}, "200000 bytes"),
    (boxes(1.2), "outside of 0..1"),
    (boxes(np.nan), "regions/boxes is not finite"),
    ({"regions/features": [np.full(16, np.inf, "<f2").tobytes()]}, "not finite"),
    ({"regions/features": [b"123"]}, "wrong size"),
    ({"regions/dim": np.array([5])}, "4 wide, not 5"),
    ({"regions/objects": [np.full(4, -1, "<i4").tobytes()]}, "below 0"),
    ({"regions/num": np.array([0])}, "no regions"),
    ({"score": np.array([np.nan])}, "score is not finite"),
  ],
)
def test_what_a_statement_must_be(change, reason):
  checks.record(*statement())
  with pytest.raises(ValueError, match=reason):
    checks.record(*statement(**change))


@pytest.mark.parametrize(
  ("change", "reason"),
  [
    ({"video/frames": []}, "no frames"),
    ({"video/frames": [[b"<html>"]] * 12}, "frame 0: image: no readable image"),
    ({"video/times": [np.float32([0])] * 3}, "12 frames, 3 times"),
    ({"video/times": [np.float32([-t]) for t in range(12)]}, "decrease"),
    ({"narration/end": [np.float32([-1])] * 3}, "an end before its start"),
    ({"narration/start": [np.float32([0])]}, "1 starts, 3 ends"),
    ({"narration/text": [[b"a"]]}, "1 texts, 3 times"),
  ],
)
def test_what_a_clip_must_be(change, reason):
  context, lists = records.decode(shards.clip(3)[0])
  checks.record(context, lists)
  with pytest.raises(ValueError, match=reason):
    checks.record(context, lists | change)
  with pytest.raises(ValueError, match="odd number"):
    checks.record(context | {"audio/pcm": [b"123"]}, lists)
  with pytest.raises(ValueError, match="frame 0 is"):
    checks.record(context | {"video/height": np.array([9])}, lists)
