"""Subtitles: literal files of every kind, rolling captions, encodings, damage."""

import json

import pytest

from data_pipelines.readers import clip_row, subtitles
from vlp_jax import errors

SRT = """1
00:00:01,000 --> 00:00:03,500
<i>Cut the onion</i>
into rings &amp; fry.

2
00:01:02,250 --> 00:01:04,000 X1:40 X2:600
{\\an8}- Hello!

3
01:00:00,000 --> 01:00:01,000

4
00:00:09,000 --> 00:00:08,000
backwards
"""

VTT = """WEBVTT
Kind: captions
Language: en

STYLE
::cue { color: red }

NOTE nobody
reads this

intro
00:01.000 --> 00:02.000 align:start position:0%
<v Ann>one <c.red>two</c></v>

01:00:00.000 --> 01:00:02.500
last
"""

# A YouTube caption file as yt-dlp writes it: every line comes three times.
ROLLING = """WEBVTT
Kind: captions
Language: en

00:00:00.000 --> 00:00:02.000 align:start position:0%
 
today<00:00:00.500><c> we</c><00:00:01.000><c> cook</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
today we cook
 

00:00:02.010 --> 00:00:05.000 align:start position:0%
today we cook
a<00:00:02.500><c> soup</c>

00:00:05.000 --> 00:00:05.010 align:start position:0%
a soup
 

00:00:05.010 --> 00:00:07.000 align:start position:0%
a soup
with salt
"""


def _read(tmp_path, name, text, **keywords):
  data = text if isinstance(text, bytes) else text.encode()
  (tmp_path / name).write_bytes(data)
  return subtitles.read(tmp_path / name, **keywords)


def test_srt(tmp_path):
  want = [
    ("Cut the onion into rings & fry.", 1.0, 3.5),
    ("- Hello!", 62.25, 64.0),
  ]
  assert _read(tmp_path, "a.srt", SRT) == (want, 2)  # empty, and backwards
  assert _read(tmp_path, "b.srt", SRT.replace("\n", "\r\n")) == (want, 2)
  # Without blank lines the numbers of cues are no text.
  tight = SRT.replace("\n\n", "\n")
  assert _read(tmp_path, "c.srt", tight)[0][0] == want[0]


def test_vtt(tmp_path):
  want = [("one two", 1.0, 2.0), ("last", 3600.0, 3602.5)]
  assert _read(tmp_path, "a.vtt", VTT) == (want, 0)


def test_rolling_captions_say_each_line_once(tmp_path):
  found, lost = _read(tmp_path, "a.en.vtt", ROLLING)
  assert [s.text for s in found] == ["today we cook", "a soup", "with salt"]
  assert [(s.start, s.end) for s in found] == [(0.0, 2.01), (2.01, 5.01), (5.01, 7.0)]
  assert lost == 0


def test_overlapping_lines_are_cut_only_if_they_roll(tmp_path):
  two = (
    "1\n00:00:00,000 --> 00:00:04,000\nyes\n\n2\n00:00:02,000 --> 00:00:06,000\nno\n"
  )
  assert _read(tmp_path, "a.srt", two)[0] == [("yes", 0, 4), ("no", 2, 6)]
  rolls = two.replace("\nno", "\nyes\nno")
  assert _read(tmp_path, "b.srt", rolls)[0] == [("yes", 0, 2), ("no", 2, 6)]
  # The same word again after a pause is said again.
  again = (
    "1\n00:00:00,000 --> 00:00:01,000\nyes\n\n2\n00:00:05,000 --> 00:00:06,000\nyes\n"
  )
  assert len(_read(tmp_path, "c.srt", again)[0]) == 2


def test_json3(tmp_path):
  events = [
    {"tStartMs": 0, "dDurationMs": 9000, "id": 1, "wpWinPosId": 1},
    {
      "tStartMs": 120,
      "dDurationMs": 4000,
      "segs": [{"utf8": "hi"}, {"utf8": " there", "tOffsetMs": 300}],
    },
    {"tStartMs": 2000, "dDurationMs": 2120, "aAppend": 1, "segs": [{"utf8": "\n"}]},
    {"tStartMs": 2010, "dDurationMs": 3000, "segs": [{"utf8": "cooks"}]},
  ]
  text = json.dumps({"wireMagic": "pb3", "events": events})
  want = [("hi there", 0.12, 2.01), ("cooks", 2.01, 5.01)]
  for name in ("a.json3", "a.json"):
    assert _read(tmp_path, name, text) == (want, 0)


def test_whisper_and_whisper_cpp(tmp_path):
  whisper = {
    "text": " One. Two.",
    "segments": [
      {"id": 0, "seek": 0, "start": 0.0, "end": 2.4, "text": " One.", "tokens": [1]},
      {"id": 1, "seek": 0, "start": 2.4, "end": 3.0, "text": " Two.", "tokens": [2]},
    ],
    "language": "en",
  }
  want = [("One.", 0.0, 2.4), ("Two.", 2.4, 3.0)]
  found = _read(tmp_path, "a.json", json.dumps(whisper))
  assert [tuple(s) for s in found[0]] == want
  parts = [
    {"timestamps": {}, "offsets": {"from": 0, "to": 2400}, "text": " One."},
    {"timestamps": {}, "offsets": {"from": 2400, "to": 3000}, "text": " Two."},
  ]
  cpp = json.dumps({"model": {}, "transcription": parts})
  assert [tuple(s) for s in _read(tmp_path, "b.json", cpp)[0]] == want


def test_lists_and_csv(tmp_path):
  lists = '{"start": [0, 1.5], "end": [1, 3], "text": ["a", "b"]}'
  assert _read(tmp_path, "a.json", lists)[0] == [("a", 0, 1), ("b", 1.5, 3)]
  csv = 'start,end,text\n5.0,6.5,"salt, pepper"\n0.5,1,first\n,2,untimed\n'
  want = ([("first", 0.5, 1), ("salt, pepper", 5.0, 6.5)], 1)
  assert _read(tmp_path, "a.csv", csv) == want


def test_lines_of_a_csv_with_too_many_fields_are_counted(tmp_path):
  csv = "start,end,text\n0,1,salt, pepper\n2,3,first\n4,5\n"
  assert _read(tmp_path, "a.csv", csv) == ([("first", 2, 3)], 2)


def test_the_timed_texts_of_a_row(tmp_path):
  at = tmp_path / "a.csv"
  at.write_text("start,end,text\n0,1,in the file\n")
  said = (clip_row.Said("in the row", 0, 1),)
  row = clip_row.ClipRow("k", "k", said=said, subtitles=str(at))
  assert [s.text for s in subtitles.timed(row)] == ["in the row", "in the file"]
  assert subtitles.timed(row._replace(subtitles="")) == said
  at.write_text("<html>")
  assert subtitles.timed(row) == said


def test_encodings(tmp_path):
  one = "1\n00:00:00,000 --> 00:00:01,000\ncafé\n"
  for mark in ("utf-8-sig", "utf-16"):
    assert _read(tmp_path, f"{mark}.srt", one.encode(mark))[0][0].text == "café"
  # One cue that is no UTF-8 is dropped and counted, the others stay.
  two = one.encode("latin-1") + b"\n2\n00:00:01,000 --> 00:00:02,000\nplain\n"
  found, lost = _read(tmp_path, "latin.srt", two)
  assert ([s.text for s in found], lost) == (["plain"], 1)
  found, lost = _read(tmp_path, "latin.srt", two, encoding="latin-1")
  assert ([s.text for s in found], lost) == (["café", "plain"], 0)


def test_texts_by_rule(tmp_path):
  blocks = [("x" * 100_000), "[MASK] \u200b\u202e\x00", " \t "]
  text = "".join(
    f"{k}\n00:00:0{k},000 --> 00:00:0{k},900\n{b}\n\n" for k, b in enumerate(blocks)
  )
  found, lost = _read(tmp_path, "a.srt", text)
  assert [len(s.text) for s in found] == [10_000, 10]
  assert lost == 2


@pytest.mark.parametrize(
  ("name", "text"),
  [
    ("a.srt", "<html>404 not found</html>"),
    ("a.vtt", "WEBVTT\n\nno times here\n"),
    ("a.json", '{"start": [0], "end": [1, 2], "text": ["a"]}'),
    ("a.json", "[" * 100_000),
    ("a.json3", '{"events": [{"segs": [{"utf8": "x"}]}]}'),
    ("a.csv", "a,b\n1,2\n"),
    ("a.ass", "[Script Info]"),
  ],
)
def test_files_of_another_kind_are_one_line(tmp_path, name, text):
  with pytest.raises(ValueError, match=name) as error:
    _read(tmp_path, name, text)
  assert len(str(error.value)) < 500
  with pytest.raises(errors.UserError, match="none"):
    subtitles.read(tmp_path / "none.srt")


@pytest.mark.parametrize(
  ("text", "want"),
  [
    ("12.5", 12.5),
    ("01:02", 62.0),
    ("00:01:02,250", 62.25),
    ("01.02.03.004", 3723.004),
    (7, 7.0),
  ],
)
def test_times(text, want):
  assert clip_row.seconds(text) == pytest.approx(want)


@pytest.mark.parametrize("text", ["", "x", "nan", "-1", "inf", "1:2:3:4", True])
def test_what_is_no_time(text):
  with pytest.raises(ValueError):
    clip_row.seconds(text)
