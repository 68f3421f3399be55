"""Records written without TensorFlow are TensorFlow's, byte for byte."""

import io
import struct

import numpy as np
import pytest

from data_pipelines import crc32c, records

CONTEXT = {
  "key": "clip-1",
  "audio/pcm": bytes(range(256)) * 40,
  "video/height": 64,
  "label/negative": -7,
  "duration_s": 4.25,
  "sizes": np.array([1, 2**40, 0], np.int64),
  "text": ["größer", "ü"],
}
LISTS = {
  "video/frames": [b"\xff\xd8a", b"", b"\xff\xd8" * 200],
  "video/times": [0.0, 0.125, 1.0],
  "caption/text": [],
  "steps": [[1, 2], [300]],
}


@pytest.mark.parametrize(
  ("data", "crc"),
  [
    (b"123456789", 0xE3069283),  # RFC 3720, B.4
    (bytes(32), 0x8A9136AA),
    (b"\xff" * 32, 0x62A8AB43),
    (bytes(range(32)), 0x46DD794E),
    (b"", 0),
  ],
)
def test_crc32c_published_values(data, crc):
  assert crc32c.crc32c(data) == crc


def test_crc32c_blocks_agree_with_the_bytewise_loop():
  rng = np.random.default_rng(0)
  for size in (255, 256, 257, 511, 512, 1000, 4097, 70_001):
    data = rng.bytes(size)
    want = crc32c._bytewise(data, 0xFFFFFFFF) ^ 0xFFFFFFFF
    assert crc32c.crc32c(data) == want, size


def _with_tensorflow(tf):
  def feature(value):
    values = list(value) if isinstance(value, list | np.ndarray) else [value]
    if isinstance(values[0], bytes | str):
      raw = [v.encode() if isinstance(v, str) else v for v in values]
      return tf.train.Feature(bytes_list=tf.train.BytesList(value=raw))
    if isinstance(values[0], float):
      return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))

  example = tf.train.SequenceExample()
  for k, v in CONTEXT.items():
    example.context.feature[k].CopyFrom(feature(v))
  for k, steps in LISTS.items():
    at = example.feature_lists.feature_list[k]
    for v in steps:
      at.feature.append(feature(v))
  return example


def test_bytes_are_tensorflows(tmp_path):
  tf = pytest.importorskip("tensorflow")
  example = _with_tensorflow(tf)
  data = records.encode(CONTEXT, LISTS)
  assert tf.train.SequenceExample.FromString(data) == example
  assert data == example.SerializeToString(deterministic=True)
  payloads = [data, b"", b"x", bytes(100_000)]
  path = tmp_path / "a.tfrecord"
  path.write_bytes(b"".join(records.frame(p) for p in payloads))
  read = [r.numpy() for r in tf.data.TFRecordDataset(str(path))]
  assert read == payloads  # TensorFlow checks both checksums


def test_decode_is_the_inverse():
  context, lists = records.decode(records.encode(CONTEXT, LISTS))
  assert context["key"] == [b"clip-1"]
  assert context["label/negative"].tolist() == [-7]
  assert context["sizes"].tolist() == [1, 2**40, 0]
  assert context["text"] == ["größer".encode(), "ü".encode()]
  np.testing.assert_array_equal(context["duration_s"], np.float32([4.25]))
  assert [f[0] for f in lists["video/frames"]] == LISTS["video/frames"]
  assert [f.tolist() for f in lists["video/times"]] == [[0.0], [0.125], [1.0]]
  assert lists["caption/text"] == []
  assert [f.tolist() for f in lists["steps"]] == LISTS["steps"]
  assert records.encode(dict(reversed(CONTEXT.items())), LISTS) == records.encode(
    CONTEXT, LISTS
  )


def test_empty_and_foreign_values():
  assert records.decode(b"") == ({}, {})
  context, _ = records.decode(records.encode({"a": np.zeros(0, np.float32)}))
  assert context["a"].dtype == np.float32
  assert context["a"].size == 0
  with pytest.raises(TypeError, match="complex"):
    records.encode({"a": np.zeros(2, complex)})


@pytest.mark.parametrize(
  ("damage", "message"),
  [
    (lambda d: d[:-1], "truncated record at 20"),
    (lambda d: d[:25], "truncated record at 20"),
    (lambda d: d[:33] + bytes([d[33] ^ 1]) + d[34:], "damaged record at 20"),
    (lambda d: d[:20] + bytes([d[20] ^ 64]) + d[21:], "damaged length at 20"),
  ],
)
def test_damage_is_found_and_placed(damage, message):
  data = records.frame(b"good") + records.frame(b"also good")
  found = []
  with pytest.raises(ValueError, match=message):
    found.extend(records.read(io.BytesIO(damage(data))))
  whole = list(records.read(io.BytesIO(data)))
  assert whole == [(0, b"good"), (20, b"also good")]


def test_a_declared_exabyte_is_not_read():
  length = struct.pack("<Q", 1 << 60)
  head = length + struct.pack("<I", crc32c.masked(length))
  with pytest.raises(ValueError, match="damaged length at 0"):
    next(records.read(io.BytesIO(head)))
