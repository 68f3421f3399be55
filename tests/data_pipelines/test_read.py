"""Reading by offset, the ShardWriter, text in native ops, damaged records."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from data_pipelines import batches, index, quarantine, records
from data_pipelines.tasks import clip_steps, text
from data_pipelines.vocabularies import wordpiece
from tests import helpers
from tests.reference import shards
from vlp_jax import errors


@pytest.fixture(scope="module")
def small(tmp_path_factory):
  """Nine records of numbers in two shards."""
  at = tmp_path_factory.mktemp("small")
  with index.ShardWriter(at, "test", 2, columns=("third", "name")) as writer:
    for k in range(9):
      writer.write(k % 2, b"%d" % k * (k + 1), third=k % 3, name=f"n{k}")
  return at


def test_the_raw_op_reads_at_an_offset(small):
  """Fails loudly if an upgrade of TensorFlow breaks the subclass in read.py."""
  from data_pipelines import read

  table = index.load(small, "test")
  want = [b"%d" % k * (k + 1) for k in (0, 2, 4, 6, 8, 1, 3, 5, 7)]
  for k, record in enumerate(want):
    path, offset = str(table.paths[table.file[k]]), int(table.offset[k])
    one = tf.data.Dataset.from_tensors((path, offset))
    found = one.flat_map(lambda p, o: read.Record(p, o).take(1))
    assert [x.numpy() for x in found] == [record]
  assert isinstance(read.Record(path, offset).element_spec, tf.TensorSpec)
  got = [x for part in read.scan(table, lambda r: {"r": r}, batch=4) for x in part["r"]]
  assert got == want


def test_index_columns_and_foreign_files(small, tmp_path):
  table = index.load(small, "test")
  assert table.columns["third"].tolist() == [0, 2, 1, 0, 2, 1, 0, 2, 1]
  assert table.select({"third": [0, 2]}).tolist() == [0, 1, 3, 4, 6, 7]
  assert table.select({"name": "n4", "third": 1}).tolist() == [2]
  assert table.select({"record": {"below": 3}}).tolist() == [0, 1, 2]
  assert table.select({"third": {"least": 1, "below": 2}}).tolist() == [2, 5, 8]
  with pytest.raises(errors.UserError, match="Did you mean 'third'"):
    table.select({"thrid": 0})
  with pytest.raises(errors.UserError, match="give least, below, or both"):
    table.select({"third": {"most": 1}})
  # TensorFlow agrees with our framing, and we with TensorFlow's.
  files = [str(p) for p in table.paths]
  native = [x.numpy() for x in tf.data.TFRecordDataset(files)]
  assert len(native) == 9
  foreign = tmp_path / "test-00000-of-00001.tfrecord"
  with tf.io.TFRecordWriter(str(foreign)) as writer:
    for record in native:
      writer.write(record)
  hopped = index.load(tmp_path, "test")
  assert len(hopped) == 9
  index.write_index(foreign)
  again = index.load(tmp_path, "test")
  np.testing.assert_array_equal(hopped.offset, again.offset)
  assert again.fingerprint == hopped.fingerprint
  foreign.write_bytes(foreign.read_bytes()[:-3])
  with pytest.raises(errors.UserError, match="truncated record at"):
    index.hop(foreign)


def test_fingerprint_follows_the_content(tmp_path):
  seen = []
  for payload in (b"abc", b"abd", b"abc"):
    with index.ShardWriter(tmp_path, "train", 1) as writer:
      writer.write(0, payload)
    info = index.write_info(tmp_path, {"name": "x", "splits": ["train"]})
    assert index.read_info(tmp_path) == info
    assert info["splits"] == {"train": {"num_examples": 1, "shards": 1}}
    seen.append((info["fingerprint"], index.load(tmp_path, "train").fingerprint))
  assert seen[0] == seen[2] != seen[1]


def test_an_aborted_writer_leaves_nothing(tmp_path):
  def abort():
    with index.ShardWriter(tmp_path, "a", 2) as w:
      w.write(0, b"x")
      raise OSError("gone")

  with pytest.raises(OSError, match="gone"):
    abort()
  assert list(tmp_path.iterdir()) == []
  with index.ShardWriter(tmp_path, "a", 2, only=(1,)) as w:
    w.write(1, b"x")
    with pytest.raises(ValueError, match="none of this writer's"):
      w.write(0, b"x")
  with pytest.raises(errors.UserError, match="incomplete"):
    index.load(tmp_path, "a")
  with pytest.raises(errors.UserError, match="no shards of split 'b'"):
    index.load(tmp_path, "b")


def test_bad_info_is_a_user_error(tmp_path):
  with pytest.raises(errors.UserError, match="missing"):
    index.read_info(tmp_path)
  (tmp_path / index.INFO).write_text("{")
  with pytest.raises(errors.UserError, match="not JSON"):
    index.read_info(tmp_path)
  (tmp_path / index.INFO).write_text('{"schema_version": 99}')
  with pytest.raises(errors.UserError, match="schema_version 99; expected 1"):
    index.read_info(tmp_path)


TEXTS = (
  *("a [MASK] b [mask] \0 red\u200bq \u202eblue Café 日本", "[SEP]", "##st [PAD][CLS]"),
  *(
    "x" * 200,
    "é" * 60,
    "It's fast... FAST!",
    "ﬁne İs ΣΑΣ σας",
    "a\tred\ncircle\u3000",
  ),
  *(
    "“red” — ½ ²",
    "👩‍👩‍👧",
    "",
    "   ",
    "\ufffd \ufeffred",
    "left\u2028red\x85blue\x7f",
    "'red' it's_",
  ),
)


def test_native_text_equals_the_vocabularies():
  for vocab in (
    shards.pieces(),
    wordpiece.Vocabulary(shards.PIECES, cased=True),
    shards.dictionary(),
  ):
    got = tf.function(text.tokenizer(vocab))(tf.constant(TEXTS)).to_list()
    assert got == [vocab.encode(t) for t in TEXTS]
    hidden = set(vocab.spec.special_ids) - {vocab.spec.unk_id}
    assert not hidden & {i for ids in got for i in ids}
    seqio_vocab = text.Vocabulary(vocab)
    assert seqio_vocab.vocab_size == vocab.spec.size
    ids = seqio_vocab.encode("red circle moves")
    assert (
      seqio_vocab.encode_tf(tf.constant("red circle moves")).numpy().tolist() == ids
    )
    assert seqio_vocab.decode(ids) == "red circle moves"


@pytest.mark.data
def test_native_text_equals_on_the_published_vocabulary():
  file = helpers.shared("data/vocab/bert-base-uncased-vocab.txt")
  vocab = wordpiece.load(str(file))
  got = text.tokenizer(vocab)(tf.constant(TEXTS)).to_list()
  assert got == [vocab.encode(t) for t in TEXTS]


def slow_candidates(start, end, centre, count):
  """The published sampler, in plain Python."""
  n = len(start)
  if not n:
    return []
  first = min(range(n), key=lambda i: abs((start[i] + end[i]) / 2 - centre))
  low = high = first
  while high - low + 1 < min(count, n):
    before = end[high] - start[low - 1] if low > 0 else np.inf
    after = end[high + 1] - start[low] if high + 1 < n else np.inf
    low, high = (low - 1, high) if before < after else (low, high + 1)
  return list(range(low, high + 1))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 6, 11])
def test_candidates_are_the_nearest(n):
  rng = np.random.default_rng(n)
  for _ in range(5):
    start = np.sort(rng.uniform(0, 20, n)).astype(np.float32)
    end = start + rng.uniform(0.1, 4, n).astype(np.float32)
    centre = np.float32(rng.uniform(-2, 22))
    at, real = clip_steps.nearest_narrations(
      tf.constant(start), tf.constant(end), centre, 4
    )
    want = slow_candidates(start, end, centre, 4)
    assert at.numpy()[real.numpy()].tolist() == want
    assert int(real.numpy().sum()) == min(n, 4)


def damaged(tmp_path):
  """24 clips: a flipped bit, HTML for a JPEG, no frames, a shard cut at its end."""
  writer = index.ShardWriter(tmp_path, "train", 2)
  for k in range(24):
    data, _ = shards.clip(k, size=16, sound=False)
    if k in (4, 5):
      context, lists = records.decode(data)
      frames = [b"<html>"] * 12 if k == 4 else []
      lists = {"video/frames": frames, "video/times": [0.25 * t for t in range(12)]}
      data = records.encode(context, lists)
    writer.write(k % 2, data)
  writer.close()
  index.write_info(
    tmp_path, {"name": "tiny", "kind": "narrated_clips", "splits": ["train"]}
  )
  table = index.load(tmp_path, "train")
  shards.flip(table, 0, at=60)  # clip 0
  last = table.paths[1]  # clip 23 is cut
  last.write_bytes(last.read_bytes()[: int(table.offset[-1]) + 100])
  # Places in the table: even clips first.
  return tmp_path, {0: "corrupted", 2: "JPEG", 14: "no frames", 23: "truncated"}


def test_damage_costs_itself_alone(tmp_path):
  at, bad = damaged(tmp_path / "data")
  log = tmp_path / "work" / "bad_records.jsonl"
  given = {
    **{"task": "narrated_clips", "dir": at, "split": "train", "text": "none"},
    **{"size": 16, "num_frames": 2},
  }
  train = {**given, "rows": 6, "bad_records": str(log)}
  made = batches.build(train)
  used = []
  for batch in shards.take(made, 8):  # two epochs of four batches
    assert batch["example_mask"].all()
    assert batch["video_mask"].all()
    assert len(set(batch["example_id"].tolist())) == 6
    used += batch["example_id"].tolist()
  assert set(made.bad) == set(bad)
  assert set(used) == set(range(24)) - set(bad)
  for record, reason in bad.items():
    assert reason in made.bad[record]["reason"]
  rows = [json.loads(line) for line in log.read_text().splitlines()]
  assert sorted(r["index"] for r in rows) == sorted(bad)
  assert {r["shard"] for r in rows} == {
    pathlib.Path(p).name for p in index.load(at, "train").paths
  }

  # A restart makes the same batches and writes nothing twice, until the budget ends.
  again, seen = batches.build({**train, "budget": 3}), []
  with pytest.raises(errors.DataBudgetError, match="the budget is 3 of 24") as caught:
    seen.extend(b["example_id"].tolist() for b in again)
  assert sum(map(len, seen)) < 24
  assert [i for ids in seen for i in ids] == used[: 6 * len(seen)]
  assert caught.value.exit_code == 3
  assert len(log.read_text().splitlines()) == 4

  # Evaluation has no spares: the row is masked, everything else counts once.
  exam = batches.evaluation({**given, "rows": 10})
  found = [b["example_id"][b["example_mask"]] for b in exam]
  assert np.concatenate(found).tolist() == [k for k in range(24) if k not in bad]
  assert set(exam.bad) == set(bad)


def test_the_default_budget_is_a_hundred_or_one_in_a_thousand(small):
  table = index.load(small, "test")
  assert quarantine.Quarantine(table).budget == 100
  few = quarantine.Quarantine(table, budget=1)
  few.add(3, "torn")
  few.add(3, "torn")
  with pytest.raises(errors.DataBudgetError, match=r"2 damaged .* at \d+: bent"):
    few.add(4, "bent")
  large = [dataclasses.replace(table, offset=np.zeros(250_000, np.int64))]
  assert quarantine.Quarantine(*large).budget == 250


def test_the_task_of_seqio_gives_what_the_reader_reads(tmp_path):
  """The reader composes the preprocessors; seqio chains them over data sets."""
  at = shards.statements(tmp_path / "texts", 5)
  given = {"task": "text_regions", "dir": str(at), "split": "train", "rows": 5}
  exam = batches.evaluation(given, vocab=shards.pieces())
  (batch,) = exam
  definition = exam._source.definition
  parsed = tf.data.TFRecordDataset([str(p) for p in exam._source.table.paths])
  seed = {"seed": tf.zeros(2, tf.int64), "sub": tf.constant(0, tf.int64)}
  parsed = parsed.map(lambda r: {**definition.parse(r), **seed})
  chained = definition.task.preprocess_postcache(parsed, sequence_length=None)
  for row, x in enumerate(chained):
    words, regions = batch["text_mask"][row], batch["regions_mask"][row]
    np.testing.assert_array_equal(x["text_ids"], batch["text_ids"][row][words])
    got = batch["regions_features"][row][regions]
    np.testing.assert_array_equal(x["regions_features"], got)


def test_a_batch_in_one_go_equals_row_by_row(tmp_path):
  at = shards.clips(tmp_path / "clips", 7)
  given = {"task": "narrated_clips", "dir": str(at), "split": "train", "rows": 4}
  given |= {"size": 16, "num_frames": 3, "fields": ("video", "audio", "label")}
  exam = batches.evaluation(given, vocab=shards.dictionary())
  reader = exam._source.reader
  planned = list(exam._planned())
  for fast, want in zip(planned, (4, 3), strict=True):  # the second is filled up
    one = {k: np.asarray(x, np.int64) for k, x in fast.items()}
    whole = reader._clean(one)
    slow = reader._make({k: tf.constant(x) for k, x in one.items()})
    assert (whole["row"] >= 0).sum() == want
    assert whole.keys() == slow.keys()
    for key, x in whole.items():
      assert x.dtype == slow[key].numpy().dtype
      np.testing.assert_array_equal(x, slow[key].numpy(), err_msg=key)
  table = index.load(at, "train")
  shards.flip(table, 1)
  assert (
    reader._clean({k: np.asarray(x, np.int64) for k, x in planned[0].items()}) is None
  )
