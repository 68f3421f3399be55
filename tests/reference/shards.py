"""Small data sets written with the ShardWriter, and ways to damage them."""

import itertools

import numpy as np

from data_pipelines import index, records
from data_pipelines.media import image
from data_pipelines.vocabularies import wordpiece, words

WORDS = ("red", "blue", "circle", "square", "moves", "left", "it's", "fast")
PIECES = (*wordpiece.SPECIALS, "!", *WORDS[:6], "it", "'", "s", "fa", "##st", ".", "[")


def dictionary() -> words.Vocabulary:
  return words.Vocabulary(WORDS)


def pieces() -> wordpiece.Vocabulary:
  return wordpiece.Vocabulary(PIECES, cased=False)


def sentence(k: int, length: int) -> str:
  return " ".join(WORDS[(k + j) % 6] for j in range(length))


def frame(k: int, t: int, size: int) -> np.ndarray:
  """[size, size, 3] uint8: the clip in red, the time in green, a ramp in blue."""
  ramp = np.broadcast_to(np.arange(size) * 255 // size, (size, size))
  flat = [np.full((size, size), v) for v in (10 * k % 256, 10 * t % 256)]
  return np.stack([*flat, ramp], axis=-1).astype(np.uint8)


def clip(k: int, *, frames=12, rate_hz=4.0, size=24, sound=True) -> tuple[bytes, dict]:
  """A record and its columns: k % 4 narrations, 2 captions."""
  starts = np.arange(k % 4) * 0.7
  context = {
    "key": f"clip-{k}",
    "video/height": size,
    "video/width": size,
    "video/rate_hz": rate_hz,
    "duration_s": frames / rate_hz,
    "label/shape": k % 3,
    "label/colour": k % 2,
    "label/action": k % 5,
  }
  if sound:
    pcm = (np.arange(int(frames / rate_hz * 80)) + 1000 * k) % 30_000
    context |= {"audio/pcm": pcm.astype("<i2").tobytes(), "audio/rate_hz": 80.0}
  lists = {
    "video/frames": [
      image.encode_jpeg(frame(k, t, size), quality=95) for t in range(frames)
    ],
    "video/times": [t / rate_hz for t in range(frames)],
    "caption/text": [sentence(k, 3), sentence(k + 1, 4)],
    "narration/text": [sentence(k + j, 2) for j in range(k % 4)],
    "narration/start": starts.astype(np.float32),
    "narration/end": (starts + 0.6).astype(np.float32),
  }
  columns = {"gallery": k % 2, "num_captions": 2, "num_narrations": k % 4}
  return records.encode(context, lists), columns


def clips(dir, num: int, *, split="train", shards=2, **keywords):
  """A set of `num` clips."""
  names = ("gallery", "num_captions", "num_narrations")
  with index.ShardWriter(dir, split, shards, columns=names) as writer:
    for k in range(num):
      data, columns = clip(k, **keywords)
      writer.write(k % shards, data, **columns)
  index.write_info(dir, {"name": "tiny", "kind": "narrated_clips", "splits": [split]})
  return dir


def statement(k: int, *, dim=4, num_words=None, num=None) -> bytes:
  rng = np.random.default_rng(k)
  num = 1 + k % 9 if num is None else num
  box = np.sort(rng.uniform(size=(num, 7)).astype("<f4"), axis=1)
  context = {
    "key": f"statement-{k}",
    "group": f"image-{k // 2}",
    "text": sentence(k, 1 + k * 7 % 23 if num_words is None else num_words),
    "match": k % 2,
    "regions/num": num,
    "regions/dim": dim,
    "regions/features": np.full((num, dim), k, "<f2").tobytes(),
    "regions/boxes": box.tobytes(),
    "regions/objects": np.arange(1, num + 1, dtype="<i4").tobytes(),
    "regions/attributes": np.ones(num, "<i4").tobytes(),
    "regions/conf": np.linspace(1, 0.5, num, dtype="<f4").tobytes(),
    "regions/probs": np.full((num, 5), 0.2, "<f2").tobytes(),
  }
  return records.encode(context)


def statements(dir, num: int, *, split="train", shards=2, **keywords):
  """A set of `num` texts with regions."""
  with index.ShardWriter(dir, split, shards) as writer:
    for k in range(num):
      writer.write(k % shards, statement(k, **keywords))
  index.write_info(dir, {"name": "tiny", "kind": "text_regions", "splits": [split]})
  return dir


def flip(table: index.Table, record: int, at: int = 40) -> None:
  """Flips one bit in the payload of a record."""
  path = table.paths[table.file[record]]
  data = bytearray(path.read_bytes())
  data[table.offset[record] + records.HEADER + at] ^= 4
  path.write_bytes(bytes(data))


def take(iterator, num: int) -> list:
  return list(itertools.islice(iterator, num))
