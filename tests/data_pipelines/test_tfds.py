"""Data sets that TensorFlow Datasets built, to records and batches."""

import json
import warnings

import numpy as np
import pytest

from data_pipelines import batches, index
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import tfds as prepare_tfds
from data_pipelines.readers import tfds_files
from data_pipelines.vocabularies import words
from vlp_jax import batch as contract
from vlp_jax import errors

LABELS = ("wave", "jump", "run")
NUM = 5


def video(k):
  """Ten frames of flat colour that tell the clip and the frame."""
  frames = np.zeros((10, 16, 24, 3), np.uint8)
  frames[..., 0] = 40 * k + 10
  frames[..., 1] = (np.arange(10) * 20)[:, None, None]
  return frames


def tone(k):
  at = np.arange(4000) / 8000
  return np.round(8000 * np.sin(2 * np.pi * 100 * (k + 1) * at)).astype(np.int64)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
  """Three builders of the library itself, built from arrays; nothing is downloaded."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    tfds = pytest.importorskip("tensorflow_datasets")
    root = tmp_path_factory.mktemp("data_dir")
    features = tfds.features

    def make(name, tree, example, splits, version="1.0.0"):
      def info(self):
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(tree))

      def split_generators(self, manager):
        del manager
        return {s: self._generate_examples(ids) for s, ids in splits.items()}

      def generate(self, ids):
        yield from ((f"example{k}", example(k)) for k in ids)

      members = {"VERSION": tfds.core.Version(version), "_info": info}
      members |= {"_split_generators": split_generators, "_generate_examples": generate}
      base = tfds.core.GeneratorBasedBuilder
      type(name, (base,), members)(data_dir=root).download_and_prepare()

    make(
      "TinyActions",
      {
        "video": features.Video(shape=(None, 16, 24, 3)),
        "label": features.ClassLabel(names=LABELS),
      },
      lambda k: {"video": video(k), "label": k % 3},
      {"train": range(NUM), "test": [1]},
    )
    make(
      "TinyCaptions",
      {
        "image": features.Image(shape=(None, None, 3), encoding_format="png"),
        "image/filename": features.Text(),
        "objects": features.Sequence({"label": features.ClassLabel(names=["cat"])}),
        "captions": features.Sequence({"text": features.Text(), "id": np.int64}),
      },
      lambda k: {
        "image": video(k)[0],
        "image/filename": f"COCO_{k}.jpg",
        "objects": [{"label": 0}] * k,
        "captions": [{"text": f"a ball number {j}", "id": j} for j in range(k + 1)],
      },
      {"train": range(3), "validation": [0, 3]},
    )
    make(
      "TinySpeech",
      {
        "speech": features.Audio(sample_rate=8000),
        "text": features.Text(),
        "speaker_id": np.int64,
        "id": features.Text(),
      },
      lambda k: {
        "speech": tone(k),
        "text": f"tone {k}",
        "speaker_id": k,
        "id": f"84-{k}",
      },
      {"train_clean100": range(3)},
    )
  return root


def one_batch(out, vocab, **given):
  """All rows of a split, in one batch."""
  given = dict(dir=str(out)) | given
  (batch,) = batches.evaluation(given, vocab=vocab)
  contract.check(batch)
  return batch


def test_labelled_videos_to_a_batch(built, tmp_path):
  out = tmp_path / "out"
  given = dict(builder="tiny_actions", frame_rate=10.0, rate_hz=5.0, quiet=True)
  info = prepare_tfds.prepare(built, out, size=16, **given)
  assert info["classes"]["action"] == list(LABELS)
  counts = {k: v["num_examples"] for k, v in info["splits"].items()}
  assert counts == {"train": NUM, "test": 1}
  assert info["kind"] == "narrated_clips"
  more = dict(task="narrated_clips", text="none", num_frames=5, size=16)
  batch = one_batch(out, None, split="train", rows=NUM, **more)
  assert batch["video_mask"].all()
  np.testing.assert_allclose(batch["video_times"][0], np.arange(5) / 5)
  pixel = batch["video_frames"][:, :, 8, 8].astype(int)  # [B, T, 3]
  clip = np.round((pixel[:, 0, 0] - 10) / 40).astype(int)
  assert sorted(clip.tolist()) == list(range(NUM))
  assert batch["label_action"].tolist() == (clip % 3).tolist()
  want = np.broadcast_to(np.arange(0, 10, 2) * 20, pixel.shape[:2])
  np.testing.assert_allclose(pixel[..., 1], want, atol=6)  # every second, as JPEG


def test_captioned_images_to_a_batch(built, tmp_path):
  out = tmp_path / "out"
  info = prepare_tfds.prepare(built, out, builder="tiny_captions:1.0.0", quiet=True)
  counts = {k: v["num_examples"] for k, v in info["splits"].items()}
  assert counts == {"train": 3, "val": 2}
  assert info["classes"]["action"] == []  # that of an object is not the picture's
  assert index.load(out, "val").columns["num_captions"].sum() == 1 + 4
  vocab = words.Vocabulary(("a", "ball", "number", "3"))
  more = dict(text="caption", num_frames=1, size=16, max_words=4, fields=("video",))
  batch = one_batch(out, vocab, task="narrated_clips", split="val", rows=5, **more)
  own = np.round((batch["video_frames"][:, 0, 8, 8, 0].astype(int) - 10) / 40)
  assert sorted(own.tolist()) == [0, 3, 3, 3, 3]
  last = batch["text_ids"][np.arange(5), batch["text_mask"].sum(1) - 1]
  assert sorted(last.tolist()) == [3, 3, 3, 3, 4]


def test_speech_to_a_batch(built, tmp_path):
  out = tmp_path / "out"
  info = prepare_tfds.prepare(built, out, builder="tiny_speech", quiet=True)
  assert info["kind"] == "sounds"
  assert info["splits"]["train_clean100"]["num_examples"] == 3
  more = dict(task="sounds", split="train_clean100", rows=3)
  batch = one_batch(out, None, **more)
  rows = batch["audio_samples"].reshape(3, -1)
  masks = batch["audio_mask"].reshape(3, -1)
  found = []
  for samples, mask in zip(rows, masks, strict=True):
    real = samples[mask].astype(float)
    spectrum = np.abs(np.fft.rfft(real))
    found.append(round(spectrum.argmax() * 16_000 / len(real) / 100))
  assert sorted(found) == [1, 2, 3]  # at 16 kHz the tones are as high as before


def test_what_is_not_there_is_told_and_never_fetched(built, tmp_path, capsys):
  for builder, message in (
    ("ucf101", r"no built data set 'ucf101'.*tiny_actions.*Nothing is downloaded"),
    ("", "give --builder, one of tiny_actions"),
    ("tiny_actions:2.0.0", r"there are: tiny_actions.1\.0\.0"),
    ("../x", "lies outside"),
  ):
    with pytest.raises(errors.UserError, match=message):
      tfds_files.DataSet(built, builder)
  with pytest.raises(errors.UserError, match="Did you mean 'label'"):
    prepare_tfds.prepare(
      built, tmp_path / "x", builder="tiny_actions", label_feature="labels"
    )
  with pytest.raises(errors.UserError, match="no video, audio or image"):
    prepare_tfds.prepare(
      built, tmp_path / "x", builder="tiny_speech", media_feature="text"
    )
  run = ["tfds", "--source", str(built), "--out", str(tmp_path / "x")]
  assert command.main([*run, "--builder", "tiny_action"]) == 2
  assert "tiny_actions" in capsys.readouterr().err


def copied(built, tmp_path, name="tiny_actions"):
  """A copy of a built version that a test may damage."""
  at = tmp_path / name / "1.0.0"
  at.mkdir(parents=True)
  for file in (built / name / "1.0.0").iterdir():
    (at / file.name).write_bytes(file.read_bytes())
  return at


def test_damage_costs_one_record_or_names_the_file(built, tmp_path):
  at = copied(built, tmp_path)
  shard = at / "tiny_actions-train.tfrecord-00000-of-00001"
  data = bytearray(shard.read_bytes())
  data[300] ^= 1
  shard.write_bytes(data)
  info = prepare_tfds.prepare(
    tmp_path, tmp_path / "out", builder="tiny_actions", quiet=True
  )
  assert info["splits"]["train"]["bad_records"] == 1
  noted = (tmp_path / "out" / "bad_records.jsonl").read_text()
  assert "its checksum is wrong" in noted
  told = json.loads((at / tfds_files.INFO).read_text())
  told["fileFormat"] = "riegeli"
  (at / tfds_files.INFO).write_text(json.dumps(told))
  with pytest.raises(errors.UserError, match="stored as riegeli; build it as tfrecord"):
    tfds_files.DataSet(tmp_path, "tiny_actions")
  told["fileFormat"] = "tfrecord"
  told["splits"][0]["filepathTemplate"] = "../{DATASET}"
  (at / tfds_files.INFO).write_text(json.dumps(told))
  with pytest.raises(errors.UserError, match=r"has no file '\.\./tiny_actions'"):
    tfds_files.DataSet(tmp_path, "tiny_actions")


def test_the_newest_version_and_configs(built, tmp_path):
  at = copied(built, tmp_path)
  for version in ("1.9.0", "1.10.0"):
    (at.parent / version).mkdir()
    (at.parent / version / tfds_files.FEATURES).write_text("{}")
  assert tfds_files.find(tmp_path, "tiny_actions").name == "1.10.0"
  assert tfds_files.find(tmp_path, "tiny_actions:1.9.0").name == "1.9.0"
  assert tfds_files.find(at, "") == at
  other = at.parent / "config_a" / "1.0.0"
  other.mkdir(parents=True)
  (other / tfds_files.FEATURES).write_text("{}")
  with pytest.raises(errors.UserError, match=r"has several configs: .*config_a"):
    tfds_files.find(tmp_path, "tiny_actions:1.0.0")
  assert tfds_files.find(tmp_path, "tiny_actions/config_a") == other
