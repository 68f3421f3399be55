"""Boxes of the subject: from the corpus through the shards into the batch."""

import json

import numpy as np
import pytest

from data_pipelines import batches
from data_pipelines.prepare import narrated as prepare
from data_pipelines.readers import narrated
from data_pipelines.synthetic import corpus, world
from tests.reference import shards
from vlp_jax import errors


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """(corpus, prepared set) of generated clips."""
  root = tmp_path_factory.mktemp("boxes")
  sizes = dict(num_clips=6, num_val=0, num_test=0, num_long=1, seconds=1.5)
  corpus.generate(root / "clips", **sizes, size=48, processes=1, audio=False)
  prepare.prepare(root / "clips", root / "shards", size=44, quiet=True)
  return root / "clips", root / "shards"


def read(at, **more):
  given = dict(task="narrated_clips", dir=str(at), split="train", rows=3, text="none")
  given |= dict(fields=("video", "label", "box"), num_frames=6, frame_rate=4.0, size=40)
  return list(batches.evaluation(given | more))


def test_boxes_hold_the_subject_in_the_crop(made):
  clips, at = made
  rows = [json.loads(x) for x in (clips / "train.jsonl").read_text().splitlines()]
  rows = {r["video"].rsplit("/")[-1][:-4]: r for r in rows}
  checked, colours = 0, list(world.RGB)
  for batch in read(at):
    assert batch["label_box"].shape == (3, 6, 4)
    assert batch["label_box"].dtype == np.float32
    assert batch["video_mask"].all()
    for i in np.flatnonzero(batch["example_mask"]):
      colour = colours[batch["label_colour"][i]]
      for frame, box in zip(
        batch["video_frames"][i], batch["label_box"][i], strict=True
      ):
        assert (box >= 0).all()
        assert (box <= 1).all()
        near = np.abs(frame - np.array(world.RGB[colour], float)).max(-1) < 60
        x1, y1, x2, y2 = np.round(box * 40).astype(int)
        inside = np.zeros_like(near)
        inside[max(y1 - 1, 0) : y2 + 1, max(x1 - 1, 0) : x2 + 1] = True
        assert near[~inside].mean() < 0.03
        checked += near[inside].any()
  assert checked > 20
  assert len(rows) == 6


def test_frames_behind_the_end_have_none(made):
  batch = read(made[1], num_frames=10)[0]
  real = batch["video_mask"]
  assert not real.all()
  assert (batch["label_box"][~real] == -1).all()
  assert (batch["label_box"][real] >= 0).all()


def test_the_boxes_of_a_long_video_are_those_of_its_subjects_in_turn(made):
  (line,) = (made[0] / "train_long.jsonl").read_text().splitlines()
  row = json.loads(line)
  boxes = narrated.subject_boxes(row)
  subjects = [o for o in row["objects"] if o["role"] == "subject"]
  assert len(subjects) > 2
  assert len(boxes) == len(subjects[0]["boxes"])
  for k, box in enumerate(boxes):
    assert [o["boxes"][k] for o in subjects if o["boxes"][k]] == [box]


def test_rows_without_subjects_have_no_boxes():
  assert narrated.subject_boxes({}) == []
  assert narrated.subject_boxes({"objects": [{"boxes": [[0, 0, 1, 1]]}, 3]}) == []
  assert narrated.subject_boxes({"objects": "no"}) == []
  odd = {"objects": [{"role": "subject", "boxes": [None, [0, 0, 1, 1]]}]}
  assert narrated.subject_boxes(odd) == [None, [0, 0, 1, 1]]
  for boxes in ([[0, 0, 1]], [["a", 0, 1, 1]]):
    with pytest.raises(ValueError):
      prepare._boxes(boxes, [0.0], 1.0)
  got = prepare._boxes([None, [0, 0, 1, 1]], [0.0, 0.6], 1.0)
  assert got == {"subject/box": [[-1.0] * 4, [0.0, 0.0, 1.0, 1.0]]}


def test_where_boxes_are_refused(made, tmp_path):
  given = dict(task="narrated_clips", dir=str(made[1]), split="train", rows=3, size=40)
  given |= dict(fields=("video", "box"), text="none")
  with pytest.raises(errors.UserError, match="for evaluation"):
    batches.build(given)
  with pytest.raises(errors.UserError, match="for evaluation"):
    read(made[1], shuffle_frames=True)
  at = shards.clips(tmp_path / "clips", 3)
  with pytest.raises(errors.UserError, match="where the subject is"):
    read(at, size=16)
