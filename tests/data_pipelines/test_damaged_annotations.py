"""Damaged annotation files: a line costs itself and says so, a file is one line."""

import csv
import math
import pickle

import pytest

from data_pipelines.readers import (
  clip_row,
  locate,
  msrvtt,
  narrated,
  pairs,
  subtitles,
  tables,
  youtube8m,
)
from tests.reference.layout import put
from vlp_jax import errors

ESC = "filename,fold,target,category,src_file\n"
EPIC = "narration_id,video_id,start_timestamp,stop_timestamp,narration,verb_class"
SCENE = {"class_labels_indices.csv": "index,mid,display_name\n0,/m/1,Rain\n"}
ANNOTATED = {"annotation_id": 1, "num_segments": 6, "times": [[0, 1]]}
EVENT = {"duration": 9, "timestamps": [[1, 2]], "sentences": ["x"]}
CHOICE = {"clip_name": "v", "options": ["a", "b"], "answer": 1}
QUESTION = {"qid": 7, "q": "Why?", "answer_idx": 2, "ts": "1-2", "vid_name": "v"}
QUESTION |= {f"a{k}": "x" for k in range(5)}

# Format, file, header, a sound line, the field that it may not lack.
LINES = [
  ("youcook2", "val_youcook.csv", "start,task,text,video_id,end\n", "1,7,cut,v,2", 4),
  ("webvid", "results_2M_val.csv", "videoid,page_dir,name\n", "12,006,a field", 2),
  ("rareact", "rareact.csv", None, "1,v,1,2,3,blend,phone,1", 7),
  ("actions", "hmdb51.csv", "video_id,label,split1\n", "a.avi,run_test,1", 2),
  ("actions:kinetics", "val.csv", None, "run,v,1,2", 3),
  ("esc50", "esc50.csv", ESC, "a.wav,1,0,dog,100", 4),
  ("audioset:audiocaps", "val.csv", "youtube_id,start_time,caption\n", "v,2,rain", 2),
  ("ego:epic", "EPIC_100_retrieval_test.csv", f"{EPIC},all_noun_classes\n", None, 6),
  ("howto100m", "HowTo100M_v1.csv", "category_1,task_id,video_id\n", "Food,7,v", 2),
  ("univl", "HowTo100M.csv", "video_id,feature_file\n", "v,v.npy", 1),
]
HEADERS = {
  "rareact": "id,video_id,start,end,class_id,verb,noun,annotation\n",
  "actions:kinetics": "label,youtube_id,time_start,time_end\n",
}
BESIDE = {
  "howto100m": {"caption.json": {"v": {"start": [0], "end": [1], "text": ["x"]}}},
  "univl": {"caption.pickle": pickle.dumps({"v": dict(start=[], end=[], text=[])})},
}


@pytest.mark.parametrize(("name", "file", "header", "line", "place"), LINES)
def test_a_short_or_long_line_of_a_csv_costs_itself(
  tmp_path, name, file, header, line, place
):
  header = header or HEADERS[name]
  line = line or 'P01_1,P01,1,2,open,3,"[1, 2]"'
  # Cut off before the field, with the field empty, and with a comma too many.
  (parts,) = csv.reader([line])
  cut = [f'"{p}"' for p in parts[:place]]
  empty = ",".join([*cut, "", *parts[place + 1 :]])
  text = header + f"{line}\n{','.join(cut)}\n{empty}\n{line},more\n"
  put(tmp_path, {file: text, **BESIDE.get(name, {})})
  found = locate.rows(name, tmp_path)
  assert len([r for r in found if not r.error]) == 1
  wrong = [r for r in found if r.error]
  assert [r.key for r in wrong] == [f"{file}:{k}" for k in (3, 4, 5)]
  num = len(parts)
  assert f"{num + 1} fields, {num} in the header" in wrong[2].error
  clip_row.by_split(found)


def test_fields_that_a_line_lacks_are_empty():
  rows = list(tables.table("a,b,c\n1\n1,2,3,,\n\n ,2,3\n1,2,3,4\n", ("a",)))
  assert rows[:2] == [
    (2, {"a": "1", "b": "", "c": ""}),
    (3, {"a": "1", "b": "2", "c": "3"}),
  ]
  assert [(line, str(e)) for line, e in rows[2:]] == [
    (5, "an empty field: a"),
    (6, "4 fields, 3 in the header"),
  ]


def test_an_open_quotation_mark_does_not_swallow_a_table(tmp_path):
  lines = [f"v{k}.mp4,text" for k in range(300)]
  several = [*lines[:50], 'x.mp4,"a\nb\nc"', *lines[50:]]
  text = "video,caption\n"
  put(tmp_path, {"train.csv": text + "\n".join(several)})
  assert len(pairs.read(tmp_path)) == 301
  lines[50] = 'v50.mp4,"text'
  put(tmp_path, {"train.csv": text + "\n".join(lines)})
  with pytest.raises(errors.UserError, match=r"train.csv .* mark in line 52"):
    pairs.read(tmp_path)


@pytest.mark.parametrize(
  ("more", "message"),
  [
    ("ret1,x,video2\n", r"JSFUSION_test.csv, line 3: an empty field: sentence"),
    ("ret1,x,video2,a dog, running\n", "line 3: 5 fields, 4 in the header"),
    ("ret1,x,video1,again\n", "lists video1 twice"),
  ],
)
def test_a_line_of_the_test_list_of_msrvtt_is_never_left_out(tmp_path, more, message):
  text = "key,vid_key,video_id,sentence\n"
  put(tmp_path, {msrvtt.TEST: f"{text}ret0,x,video1,a dog\n{more}"})
  with pytest.raises(errors.UserError, match=message):
    msrvtt.read(tmp_path)
  put(tmp_path, {msrvtt.TEST: text})
  with pytest.raises(errors.UserError, match="lists no clips"):
    msrvtt.read(tmp_path)


def test_lists_that_number_classes_must_be_whole(tmp_path):
  segments = {"eval_segments.csv": 'v, 1, 2, "/m/1"\n'}
  for line, message in (("1,/m/2", "line 3"), ("x,/m/2,Wind", "no number")):
    name = "class_labels_indices.csv"
    put(tmp_path, {**segments, name: SCENE[name] + f"{line}\n"})
    with pytest.raises(errors.UserError, match=message):
      locate.rows("audioset", tmp_path)
  put(tmp_path, {"segment_label_ids.csv": "Index\nx\n"})
  with pytest.raises(errors.UserError, match="an Index is no number"):
    youtube8m.labels(tmp_path)


@pytest.mark.parametrize("line", ["23521\n", "23521,\n"])
def test_a_line_without_its_video_is_told(tmp_path, line):
  files = {"tasks_primary.txt": "23521\nx\nurl\n1\npour\n\n"}
  put(tmp_path, {**files, "videos.csv": f"23521,v,url\n{line}"})
  with pytest.raises(errors.UserError, match=r"videos.csv, line 2: task and video"):
    locate.rows("crosstask", tmp_path)


def test_a_tab_in_a_sentence_does_not_cut_it(tmp_path):
  name = "0001_American_Beauty_00.00.51.926-00.00.54.129"
  put(tmp_path, {"LSMDC16_annos_val.csv": f"{name}\t1\t2\t1\t2\tShe\truns.\n"})
  (row,) = locate.rows("lsmdc", tmp_path)
  assert "7 columns" in row.error


@pytest.mark.parametrize(
  ("name", "file", "value"),
  [
    ("didemo", "val_data.json", [ANNOTATED | {"video": None, "description": "x"}]),
    ("didemo", "val_data.json", [ANNOTATED | {"video": ["v"], "description": "x"}]),
    ("didemo", "val_data.json", [ANNOTATED | {"video": "v", "description": None}]),
    (
      "didemo",
      "val_data.json",
      [{**ANNOTATED, "video": "v", "description": "x", "times": [[0, math.inf]]}],
    ),
    ("activitynet", "train.json", {"v": EVENT | {"timestamps": [[1, math.nan]]}}),
    ("activitynet", "train.json", {"v": EVENT | {"timestamps": [[-1, 2]]}}),
    ("activitynet", "train.json", {"v": [EVENT]}),
    ("msrvtt:multiple_choice", "mc.jsonl", CHOICE | {"answer": math.inf}),
    ("msrvtt:multiple_choice", "mc.jsonl", CHOICE | {"options": [None, "b"]}),
    ("msrvtt:multiple_choice", "mc.jsonl", "[" * 100_000),
    ("tvr:tvqa", "tvqa_val.jsonl", "null\n"),
    ("tvr:tvqa", "tvqa_val.jsonl", QUESTION | {"ts": None}),
    ("tvr:tvqa", "tvqa_val.jsonl", QUESTION | {"a3": None}),
    ("tvr:tvqa", "tvqa_val.jsonl", QUESTION | {"vid_name": 5}),
    ("tvr:tvqa", "tvqa_val.jsonl", QUESTION | {"answer_idx": math.inf}),
    ("pairs", "a.jsonl", {"video": "v", "caption": {"text": "x"}}),
    ("pairs", "a.jsonl", {"video": "v", "caption": 5}),
  ],
)
def test_values_of_another_form_become_error_rows(tmp_path, name, file, value):
  put(tmp_path, {file: value})
  rows = locate.rows(name, tmp_path)
  assert [bool(r.error) for r in rows] == [True]
  assert len(rows[0].error) < 300
  clip_row.by_split(rows)


@pytest.mark.parametrize(
  ("name", "file", "value"),
  [
    ("coin", "COIN.json", {"database": {"v": {"annotation": [{"id": math.inf}]}}}),
    ("ego:mcq", "egomcq.json", {"0": {"choices": [1], "answer": 0}}),
    ("univl:pickled", "youcook_val.pkl", b"N."),
    ("howto100m", "caption.pickle", b"]."),
    ("howto100m", "caption.pickle", b"}\x8c\x01v]s."),
  ],
)
def test_files_of_another_form_are_one_line(tmp_path, name, file, value):
  put(tmp_path, {file: value})
  with pytest.raises(errors.UserError, match=file) as error:
    locate.rows(name, tmp_path)
  assert "\n" not in str(error.value)


def test_times_of_another_form_are_dropped_and_counted():
  good = [("a", "1.5", 2), ("b", 3, "00:00:04,5")]
  bad = [("c", t, 9) for t in (None, -1, math.nan, math.inf, 10**400, True, "x", [1])]
  said, lost = subtitles.clean(good + bad + [("d", 5, 4)])
  assert said == [("a", 1.5, 2.0), ("b", 3.0, 4.5)]
  assert lost == len(bad) + 1
  given = [dict(text=x, start=a, end=b) for x, a, b in (("a", 1, 2), *bad)]
  kept, lost = narrated.narrations({"narrations": given[:6]})
  # A narration may begin before its clip.
  assert (kept, lost) == ([("a", 1.0, 2.0), ("c", -1.0, 9.0)], 4)
