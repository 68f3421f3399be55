"""Readers of actions and of first-person video: literal files."""

import numpy as np
import pytest

from data_pipelines.readers import (
  actions,
  breakfast,
  ego,
)
from tests.reference.layout import put
from vlp_jax import errors

EGO = (
  "clip_idx\tvideo_uid\tvideo_dur\tnarration_source\tnarration_ind\tnarration_time\t"
  "clip_start\tclip_end\tclip_text\ttag_verb\ttag_noun\n"
  "0\t001e3e4e\t1800.0\tnarration_pass_1\t0\t3.3445\t2.967651\t3.721266\t"
  "#C C picks a bag of clothes\t[93]\t[192, 115, 12]\n"
  "1\t001e3e4e\t1800.0\tnarration_pass_1\t1\t1199.9\t1199.5\t1200.3\t#C C walks\t"
  "[4]\t[]\n"
  "2\t001e3e4e\t1800.0\tnarration_pass_1\t2\t9\t8\t10\tx\t__import__('os')\t[1]\n"
)


def test_egoclip(tmp_path):
  put(tmp_path, {"egoclip.csv": EGO})
  first, crossing, code = ego.read(tmp_path)
  assert first.media == "001e3e4e/0.mp4"
  assert (first.start, first.end) == (2.967651, 3.721266)
  assert first.labels == {"verb": [93], "noun": [192, 115, 12]}
  assert crossing.media == "001e3e4e/1.mp4"
  assert (crossing.start, crossing.end) == (pytest.approx(599.5), 600.0)
  assert crossing.labels["noun"] == []
  assert "is no list of numbers" in code.error
  assert ego.read(tmp_path, chunk_s=0.0)[1].start == 1199.5
  # The published first row: symmetric about 3.3445 s, half width 0.3768.
  (a, b), *_ = ego.bounds([3.3445, 3.3445 + 2 * 4.9 * 0.3768075])
  assert (a, b) == pytest.approx((2.967651, 3.721266), abs=1e-4)


def test_egomcq(tmp_path):
  def row(video, start):
    tags = {"tag_verb": "[1]", "tag_noun": "[2]"}
    about = {"video_uid": video, "clip_start": start, "clip_end": start + 1}
    return {**about, **tags, "clip_text": f"#C C at {start}"}

  inter = {str(k): row(f"v{k}", 5.0) for k in range(5)}
  intra = {str(k): row("v0", 5.0 + k) for k in range(5)}
  given = {
    "0": {"answer": 3, "types": 1, "query": row("v3", 5.0), "choices": inter},
    "1": {"answer": 0, "types": 2, "query": row("v0", 5.0), "choices": intra},
  }
  put(tmp_path, {"egomcq.json": given})
  clips, asked = ego.mcq(tmp_path), ego.questions(tmp_path)
  assert len(clips) == 9  # one of the ten is in both
  assert [q.intra for q in asked] == [False, True]
  keys = {r.key for r in clips}
  assert all(set(q.choices) <= keys and len(q.choices) == 5 for q in asked)
  assert (asked[0].answer, asked[0].text) == (3, "#C C at 5.0")


EPIC = (
  "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,"
  "stop_timestamp,start_frame,stop_frame,narration,verb,verb_class,noun,noun_class,"
  "all_nouns,all_noun_classes\n"
  "P01_11_0,P01,P01_11,00:00:00.560,00:00:00.00,00:00:01.89,1,113,take plate,take,0,"
  "plate,2,['plate'],[2]\n"
  "P01_11_1,P01,P01_11,00:00:02,00:00:02.50,00:00:04.10,150,246,put plate on table,put,"
  "1,plate,2,\"['plate', 'table']\",\"[2, 42]\"\n"
)


def test_epic_and_relevancy(tmp_path):
  put(tmp_path, {"EPIC_100_retrieval_test.csv": EPIC})
  rows = ego.epic(tmp_path)
  assert [(r.start, r.end) for r in rows] == [(0.0, 1.89), (2.5, 4.1)]
  assert rows[1].labels == {"verb": [1], "noun": [2, 42]}
  got = ego.relevancy(rows, rows)
  np.testing.assert_allclose(got, [[1, 0.25], [0.25, 1]])


def test_ucf101(tmp_path):
  put(
    tmp_path,
    {
      "classInd.txt": "1 ApplyEyeMakeup\n2 Archery\n",
      "trainlist01.txt": "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi 1\r\n"
      "Archery/v_Archery_g09_c02.avi 2\r\n",
      "testlist01.txt": "Archery/v_Archery_g01_c01.avi\n",
      "trainlist02.txt": "Rowing/v_Rowing_g01_c01.avi 9\n",
    },
  )
  rows = actions.read(tmp_path)
  assert [(r.split, r.labels["action"]) for r in rows] == [
    ("train", "ApplyEyeMakeup"),
    ("train", "Archery"),
    ("test", "Archery"),
  ]
  assert rows[0].group == "v_ApplyEyeMakeup_g08"
  with pytest.raises(errors.UserError, match="'Rowing' is not in classInd"):
    actions.read(tmp_path, split_number=2)
  with pytest.raises(errors.UserError, match="there are 1, 2 and 3"):
    actions.read(tmp_path, split_number=4)


def test_hmdb51_official_lists(tmp_path):
  put(
    tmp_path,
    {
      "smile_test_split1.txt": "a_smile_0.avi 1 \nb_smile_1.avi 2 \nc_smile_2.avi 0 \n",
      "smile_test_split2.txt": "a_smile_0.avi 2 \n",
    },
  )
  rows = actions.read(tmp_path)
  assert [(r.media, r.split) for r in rows] == [
    ("smile/a_smile_0.avi", "train"),
    ("smile/b_smile_1.avi", "test"),
  ]


def test_kinetics(tmp_path):
  text = (
    "label,youtube_id,time_start,time_end,split\n"
    "testifying,---QUuC4vJs,84,94,validate\n"
    "eating spaghetti,--3ouPhoy2A,20,,validate\n"
  )
  put(tmp_path, {"kinetics600_val.csv": text})
  row, bad = actions.read(tmp_path / "kinetics600_val.csv")
  assert row.media == "testifying/---QUuC4vJs_000084_000094.mp4"
  assert (row.split, row.labels) == ("val", {"action": "testifying"})
  assert bad.error


STEPS = "1-30 SIL  \n31-150 take_bowl\n151-600 pour_milk\nx\n\n601-700 SIL\n"


def test_breakfast_before_a_step_and_the_step(tmp_path):
  files = {"coarse/P03_cam01_P03_milk.txt": STEPS, "P16_stereo01_P16_tea.txt": STEPS}
  put(tmp_path, files)
  own = breakfast.actions(tmp_path)
  take, pour, wrong = (r for r in own if "P03" in r.key)
  assert (take.start, take.end) == (2.0, 10.0)
  assert (pour.start, pour.end, pour.labels) == (10.0, 40.0, {"action": "pour_milk"})
  assert (take.media, take.also) == ("P03/cam01/P03_milk", ("P03_cam01_P03_milk",))
  assert "FIRST-LAST" in wrong.error
  assert {r.split for r in own if "P03" in r.key} == {"test"}
  other = next(r for r in own if "P16" in r.key)
  assert (other.split, other.also[1]) == ("train", "P16/stereo/P16_tea_ch0")
  others = breakfast.actions(tmp_path, split_number=2)
  assert {r.split for r in others if "P03" in r.key} == {"train"}
  before = [r for r in breakfast.read(tmp_path, observe_s=6.0) if "P03" in r.key]
  assert [(r.start, r.end) for r in before if not r.error] == [(0.0, 2.0), (4.0, 10.0)]
  assert [r.labels for r in before[:2]] == [take.labels, pour.labels]
  early = breakfast.read(tmp_path, observe_s=6.0, gap_s=1.0)
  assert [(r.start, r.end) for r in early[:1]] == [(3.0, 9.0)]  # 1 s is too little


@pytest.mark.parametrize(
  ("more", "message"),
  [
    (dict(split_number=5), "there are 1, 2, 3 and 4"),
    (dict(gap_s=-1.0), "a gap of at least 0"),
    (dict(fps=0.0), "frames a second"),
  ],
)
def test_mistakes_with_breakfast_are_told(tmp_path, more, message):
  put(tmp_path, {"P03_cam01_P03_milk.txt": STEPS})
  with pytest.raises(errors.UserError, match=message):
    breakfast.read(tmp_path, **more)
  with pytest.raises(errors.UserError, match="has no P<person>"):
    breakfast.read(tmp_path / "none")
