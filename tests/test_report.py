"""The report holds all it shows, fetches nothing and runs nothing that it quotes."""

import html.parser
import json
import re

import numpy as np
import pytest

from vlp_jax import plots, report, report_style
from vlp_jax.metrics import Result

EVIL = '<script>alert("x")</script>'


class Page(html.parser.HTMLParser):
  """Tags, links and text of a page."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.links, self.words = [], [], []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    names = ("src", "href", "xlink:href", "srcset", "data", "action", "poster")
    self.links += [v for k, v in attrs if k in names]

  def handle_data(self, data):
    self.words.append(data)


def make(workdir, **kw):
  metrics = [
    {"step": s, "loss": 4.0 / s, "t2v_recall@1": 0.1 * s, EVIL: 1.0}
    for s in range(1, 5)
  ]
  metrics[2]["loss"] = None  # was not finite
  workdir.mkdir(exist_ok=True)
  timing = [
    {"step": 2, "wall_s": 50.0, "examples_per_s": 8.0, "wait_share": 0.125},
    {"step": 4, "wall_s": 20.0, "examples_per_s": 10.0, "wait_share": 0.125},
  ]
  (workdir / "timing.jsonl").write_text("".join(json.dumps(r) + "\n" for r in timing))
  frames = np.zeros((4, 16, 24, 3), np.uint8)
  items = [{"frames": frames, "right": False, "text": EVIL}, {"frames": frames[0]}]
  given = dict(
    results={
      "t2v_recall@1": Result(0.342, 0.01, 400, 0.05, EVIL),
      "t2v_median_rank": {"value": 3.5, "chance": None, "n": 400},
      "probe_action": {"value": 0.5, "chance": 0.25, "baselines": {EVIL: 0.375}},
      EVIL: Result(1.0),
    },
    metrics=metrics,
    examples=[{"query": EVIL, "rank": 3, "items": items}],
    config={"model": {"name": EVIL}},
    env={EVIL: EVIL, "devices": [1]},
    notes=EVIL,
    title=EVIL,
  )
  path = report.write(workdir, **(given | kw))
  return path.read_text()


def test_nothing_is_fetched_and_nothing_runs(tmp_path):
  text = make(tmp_path)
  page = Page(text)
  assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
  assert page.tags.count("svg") >= 4  # curves and bars
  assert page.tags.count("img") == 2
  assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
  code = re.sub(r"base64,[\w+/=]+", "", text)
  for word in ("http:", "https:", '"//', "@import", "url(h", "onerror="):
    assert word not in code
  assert "<script" not in text
  assert "default-src 'none'" in text


def test_numbers_stand_beside_chance_and_baselines(tmp_path):
  words = " ".join(Page(make(tmp_path)).words)
  assert EVIL in words  # quoted as text
  for number in ("34.2 %", "± 5.0 %", "1.0 %", "3.5", "37.5 %", "25.0 %", "400"):
    assert number in words
  assert "1 min 10 s" in words  # 50 s, then a restart and 20 s
  assert "right item at place 3" in words
  assert "Text to video: share of queries whose right item comes first." in words


def test_a_run_without_anything_still_has_a_report(tmp_path):
  text = report.write(tmp_path / "new", results={}).read_text()
  assert "No evaluation was run." in text
  assert Page(text).tags.count("section") == 1


def test_curves_follow_the_logged_file(tmp_path):
  lines = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.0, "note": "text"}]
  (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
  text = report.write(tmp_path, results={}).read_text()
  assert 'aria-label="loss over steps"' in text
  assert "note over steps" not in text


def test_bad_frames_are_refused(tmp_path):
  with pytest.raises(ValueError, match="float64"):
    make(tmp_path, examples=[{"query": "q", "frames": np.zeros((2, 4, 4, 3))}])


@pytest.mark.parametrize("num", [1, 2, 60, 3000])
def test_curve_is_inline_svg(num):
  svg = plots.curve(range(num), np.linspace(1, 1e-4, num), label="a<b", chance=0.5)
  assert svg.startswith('<svg role="img" aria-label="a&lt;b"')
  assert "currentColor" in svg
  assert "xmlns" not in svg
  assert len(svg) < 60_000


def test_running_median_leaves_lines_straight():
  line = np.arange(9.0)
  np.testing.assert_array_equal(plots.running_median(line, 3), line)
  line[4] = np.nan
  assert plots.running_median(line, 3)[4] == 4.0


def test_words():
  assert report_style.explain("probe_action_shuffled").startswith("Control: the probe")
  assert report_style.explain("something") == ""
  assert report_style.number("t2v_recall@5", 0.12345) == "12.3 %"
  assert report_style.number("loss", float("nan")) == "–"
  assert report_style.number("params", 123456.0) == "123,456"
