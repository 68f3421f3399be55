"""Readers of videos with texts: literal files, written out from their descriptions."""

import json
import pickle

import numpy as np
import pytest

from data_pipelines.readers import (
  activitynet,
  clip_row,
  crosstask,
  howto100m,
  lsmdc,
  msrvtt,
  tvr,
  webvid,
  youcook2,
)
from tests.reference.layout import put
from vlp_jax import errors


def test_howto100m_index_and_json(tmp_path):
  index = (
    "video_id,category_1,category_2,rank,task_id\n"
    "nVbIUDjzWY4,Cars & Other Vehicles,Motorcycles,27,52907\n"
    "CTPAZ2euJ2Q,Cars & Other Vehicles,Motorcycles,35,109057\n"
    "gone_______,Food,Soup,1,7\n"
  )
  captions = {
    "nVbIUDjzWY4": {"start": [0.0, 3.1], "end": [3.5, 7.0], "text": ["hi", "a bike"]},
    "CTPAZ2euJ2Q": {"start": [1], "end": [2], "text": ["ride"]},
    "unlisted___": {"start": [0], "end": [1], "text": ["x"]},
  }
  put(tmp_path, {"HowTo100M_v1.csv": index, "raw_caption.json": captions})
  rows = {r.key: r for r in howto100m.read(tmp_path)}
  assert list(rows) == ["nVbIUDjzWY4", "CTPAZ2euJ2Q", "gone_______"]
  first = rows["nVbIUDjzWY4"]
  assert first.said == (("hi", 0.0, 3.5), ("a bike", 3.1, 7.0))
  assert first.labels["category_2"] == "Motorcycles"
  assert first.labels["task_id"] == "52907"
  assert rows["gone_______"].said == ()
  some = howto100m.read(tmp_path, only={"CTPAZ2euJ2Q"})
  assert {r.key: len(r.said) for r in some}["nVbIUDjzWY4"] == 0
  put(tmp_path, {"caption.json": {"nVbIUDjzWY4": {"start": [0], "end": [1]}}})
  with pytest.raises(errors.UserError, match="nVbIUDjzWY4"):
    howto100m.read(tmp_path, captions="caption.json")


@pytest.mark.parametrize("name", ["caption.pickle", "caption.pkl"])
def test_howto100m_pickled_captions(tmp_path, name):
  told = {
    "v1": {"start": [np.float64(1)], "end": [np.float32(2)], "text": [np.str_("x")]},
    "v2": {
      "start": np.array([0.0, 4.5]),
      "end": np.array([np.float32(4), 9], object),
      "text": np.array([np.str_("one"), "two"], object),
    },
    "v3": {"start": [0], "end": [1], "text": ["not in the index"]},
  }
  index = "video_id,task_id\nv1,7\nv2,8\n"
  put(tmp_path, {"HowTo100M_v1.csv": index, name: pickle.dumps(told)})
  wanted = {"v1": (("x", 1.0, 2.0),), "v2": (("one", 0.0, 4.0), ("two", 4.5, 9.0))}
  for rows in (
    howto100m.read(tmp_path),
    howto100m.read(tmp_path, captions=name),
    howto100m.read(tmp_path / name),
    howto100m.read(tmp_path / "HowTo100M_v1.csv"),
  ):
    assert {r.key: r.said for r in rows} == wanted
  (tmp_path / "HowTo100M_v1.csv").unlink()
  assert [r.key for r in howto100m.read(tmp_path)] == ["v1", "v2", "v3"]
  some = howto100m.read(tmp_path, only={"v2"})
  assert {r.key: r.said for r in some} == {"v2": wanted["v2"]}
  put(tmp_path, {"caption.json": {"v4": {"start": [0], "end": [1], "text": ["j"]}}})
  assert [r.key for r in howto100m.read(tmp_path)] == ["v4"]  # the JSON comes first
  put(tmp_path, {name: pickle.dumps({"v1": {"start": [0], "end": [1, 2], "text": []}})})
  with pytest.raises(errors.UserError, match="'v1' has no lists"):
    howto100m.read(tmp_path, captions=name)


def test_howto100m_csv_per_video(tmp_path):
  one = "start,end,text\n6.019,12.879,so today\n9.8,15.2,we will\n"
  lists = "video_path\nab/video_one.mp4\nvideo_two.webm\n"
  put(
    tmp_path,
    {"howto100m_videos.csv": lists, "howto100m_captions/video_one.csv": one},
  )
  rows = howto100m.read(tmp_path)
  assert [r.media for r in rows] == ["ab/video_one.mp4", "video_two.webm"]
  assert rows[0].subtitles.endswith("howto100m_captions/video_one.csv")
  assert rows[1].subtitles == ""
  (tmp_path / "howto100m_videos.csv").unlink()
  assert [r.key for r in howto100m.read(tmp_path)] == ["video_one"]


MSRVTT = {
  "info": {},
  "videos": [
    {"video_id": f"video{k}", "category": k, "split": split, "start time": 137.7}
    for k, split in enumerate(["train", "train", "validate", "test", "test"])
  ],
  "sentences": [
    {"caption": f"sentence {s} of {k}", "video_id": f"video{k}", "sen_id": s}
    for k in range(5)
    for s in range(3)
  ],
}
JSFUSION = "key,vid_key,video_id,sentence\nret0,msr4,video4,a dog runs\n"


def test_msrvtt_splits(tmp_path):
  put(tmp_path, {"MSRVTT_data.json": MSRVTT, msrvtt.TEST: JSFUSION})

  def parts(**keywords):
    found = clip_row.by_split(msrvtt.read(tmp_path, **keywords))
    return {s: [r.key for r in rows] for s, rows in found.items()}

  assert parts() == {
    "train": ["video0", "video1", "video2", "video3"],
    "test": ["video4"],
  }
  assert parts(train="7k")["train"] == ["video0", "video1", "video2"]
  full = {
    "train": ["video0", "video1"],
    "val": ["video2"],
    "test": ["video3", "video4"],
  }
  assert parts(train="full") == full
  rows = msrvtt.read(tmp_path)
  assert rows[-1].captions == ("a dog runs",)  # the one sentence of 1k-A
  assert rows[0].captions[2] == "sentence 2 of 0"
  put(tmp_path, {"MSRVTT_train.9k.csv": "video_id\nvideo1\nvideo3\n"})
  assert parts()["train"] == ["video1", "video3"]
  put(tmp_path, {"MSRVTT_train.9k.csv": "video_id\nvideo1\nvideo4\n"})
  with pytest.raises(errors.UserError, match=r"both the 9k .* video4"):
    msrvtt.read(tmp_path)
  with pytest.raises(errors.UserError, match="known: 9k, 7k, full"):
    msrvtt.read(tmp_path, train="1k")


def test_msrvtt_test_list_alone(tmp_path):
  put(tmp_path, {msrvtt.TEST: JSFUSION, "MSRVTT_train.9k.csv": "video_id\nvideo1\n"})
  for source in (tmp_path, tmp_path / msrvtt.TEST):
    (row,) = msrvtt.read(source)
    assert (row.key, row.split, row.captions) == ("video4", "test", ("a dog runs",))
    for train in ("7k", "full"):
      with pytest.raises(errors.UserError, match=r"has none of MSRVTT_data\.json"):
        msrvtt.read(source, train=train)
  put(tmp_path, {"MSRVTT_data.json": MSRVTT})
  (row,) = msrvtt.read(tmp_path / msrvtt.TEST)  # a file that is given counts alone
  assert row.key == "video4"
  assert [r.key for r in msrvtt.read(tmp_path)] == ["video1", "video4"]
  with pytest.raises(errors.UserError, match=r"has none of MSRVTT_data\.json"):
    msrvtt.read(put(tmp_path / "empty", {"note.txt": ""}))


def test_msrvtt_annotations_layout(tmp_path):
  given = {"annotations": [{"image_id": "video7", "caption": "x", "id": 1}]}
  put(tmp_path, {"MSR_VTT.json": given, msrvtt.TEST: JSFUSION})
  assert [r.key for r in msrvtt.read(tmp_path)] == ["video7", "video4"]


def test_youcook2_json(tmp_path):
  steps = [
    {"segment": [90, 102], "id": 0, "sentence": "spread margarine on two slices"},
    {"segment": [130, 114], "id": 1, "sentence": "backwards"},
  ]
  video = {"duration": 311.77, "subset": "training", "recipe_type": "113"}
  given = {"database": {"GLd3aX16zBg": {**video, "annotations": steps}}}
  put(tmp_path, {"youcookii_annotations_trainval.json": given})
  good, bad = youcook2.read(tmp_path)
  assert (good.start, good.end, good.split) == (90, 102, "train")
  assert "from 130.0 to 114.0" in bad.error


def test_tvc_tvqa_and_subtitles(tmp_path):
  tvc = {
    **{"vid_name": "castle_1", "duration": 60.0, "ts": [1.0, 2.5], "clip_id": 3},
    "descs": [
      {"desc": "one", "type": "v", "from_retrieval": True, "desc_id": 1},
      {"desc": "two", "type": "vt", "from_retrieval": False, "desc_id": 2},
    ],
  }
  put(tmp_path / "tvc", {"tvc_train_release.jsonl": json.dumps(tvc) + "\n{broken\n"})
  sub = {"vid_name": "castle_1", "sub": [{"text": "Castle: hm", "start": 1, "end": 2}]}
  put(tmp_path / "tvc", {"tvqa_preprocessed_subtitles.jsonl": sub})
  row, bad = tvr.tvc(tmp_path / "tvc")
  assert row.captions == ("one", "two")
  assert row.said == (("Castle: hm", 1.0, 2.0),)
  assert "JSONDecodeError" in bad.error
  line = {"qid": 7, "q": "Why?", **{f"a{k}": f"answer {k}" for k in range(5)}}
  lines = [
    {**line, "answer_idx": 2, "ts": "76.01-84.2", "vid_name": "v", "show_name": "x"},
    {**line, "qid": 8, "ts": "nan-nan", "vid_name": "v"},
  ]
  text = "\n".join(json.dumps(x) for x in lines)
  put(tmp_path / "qa", {"tvqa_val.jsonl": text})
  timed, whole = tvr.tvqa(tmp_path / "qa")
  assert (timed.start, timed.end) == (76.01, 84.2)
  options = tuple(f"answer {k}" for k in range(5))
  assert timed.choices == (("Why?", options, 2),)
  assert (whole.end, whole.choices[0].answer) == (None, -1)
  how2 = 'abc_60_120,[3.2:9.9],no,maybe,"well, no",is it?,yes\n'
  put(tmp_path / "how2", {"how2QA_val_release.csv": how2})
  (row,) = tvr.how2qa(tmp_path / "how2")
  assert (row.media, row.start, row.end) == ("abc_60_120", 3.2, 9.9)
  assert row.choices == (("is it?", ("no", "maybe", "well, no", "yes"), 3),)


def test_activitynet(tmp_path):
  given = {
    "v_QOlSCBRmfWY": {
      "duration": 82.73,
      "timestamps": [[0.83, 19.86], [17.37, 60.81]],
      "sentences": ["A young woman is seen standing.", " The girl dances. "],
    },
    "v_bad": {"duration": 5, "timestamps": [[1, 2]], "sentences": []},
  }
  put(tmp_path, {"train.json": given, "val_1.json": {}})
  row, bad = activitynet.read(tmp_path)
  whole = "A young woman is seen standing. The girl dances."
  assert row.captions == (whole,)
  assert row.said[1] == ("The girl dances.", 17.37, 60.81)
  assert (row.end, row.also, row.split) == (82.73, ("QOlSCBRmfWY",), "train")
  assert bad.error
  moments = activitynet.read(tmp_path / "train.json", unit="moment", split="val")
  assert [(m.start, m.split) for m in moments[:2]] == [(0.83, "val"), (17.37, "val")]


def test_lsmdc(tmp_path):
  name = "0001_American_Beauty_00.00.51.926-00.00.54.129"
  times = "00.00.51.926\t00.00.54.129\t00.00.51.815\t00.00.54.018"
  text = f'{name}\t{times}\tSOMEONE says "no.\nshort line\tx\n'
  put(tmp_path, {"LSMDC16_annos_val.csv": text})
  row, bad = lsmdc.read(tmp_path)
  assert row.media == f"0001_American_Beauty/{name}.avi"
  assert (row.split, row.captions) == ("val", ('SOMEONE says "no.',))
  assert bad.error
  options = "\t".join(f"option {k}" for k in range(5))
  choice = f"{name}\t{times}\t{options}\t3\n"
  put(tmp_path, {"LSMDC16_multiple_choice_test_randomized.csv": choice})
  (row,) = lsmdc.multiple_choice(tmp_path)
  assert (row.choices[0].answer, row.choices[0].options[2]) == (2, "option 2")


def test_webvid(tmp_path):
  text = (
    "videoid,contentUrl,duration,page_dir,name\n"
    "21179416,https://x/a.mp4,PT00H00M11S,006001_006050,Aerial shot of a field\n"
    f"5629184,https://x/b.mp4,PT00H00M29S,071501_071550,{'y' * 400}\n"
    "1,https://x/c.mp4,PT00H00M29S,071501_071550,\n"
  )
  put(tmp_path, {"results_2M_val.csv": text})
  first, long, bad = webvid.read(tmp_path)
  assert first.media == "006001_006050/21179416.mp4"
  assert (first.split, first.captions) == ("val", ("Aerial shot of a field",))
  assert len(long.captions[0]) == 350
  assert "empty field" in bad.error


def test_crosstask(tmp_path):
  primary = (
    "23521\nMake Jello Shots\nhttp://w/Jello\n3\npour water,stir mixture,pour shots\n\n"
    "59684\nBuild Simple Floating Shelves\nhttp://w/S\n1\ncut shelve\n\n"
  )
  files = {
    "tasks_primary.txt": primary,
    "videos.csv": "23521,vidA,http://y/A\n23521,vidB,http://y/B\n99,vidC,http://y/C\n",
    "videos_val.csv": "23521,vidB,http://y/B\n",
    "annotations/23521_vidA.csv": "1,10.5,20\n3,30,31.25\n",
    "annotations/23521_vidB.csv": "4,1,2\n",
  }
  put(tmp_path, files)
  row, bad = crosstask.read(tmp_path)
  assert row.said == (("pour water", 10.5, 20.0), ("pour shots", 30.0, 31.25))
  assert (row.split, row.labels["task"]) == ("train", "Make Jello Shots")
  assert (bad.split, "step 4 of 3" in bad.error) == ("test", True)
  put(tmp_path, {"tasks_primary.txt": "1\nx\nurl\n2\none\n\n"})
  with pytest.raises(errors.UserError, match="1 steps, 2 told"):
    crosstask.read(tmp_path)
