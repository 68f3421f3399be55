"""Heat maps over frames, and how they come into a report."""

import numpy as np
import pytest

from launch import examples
from vlp_jax import heat_maps, report
from vlp_jax.evaluators import sounding_object


def test_a_map_is_enlarged_between_its_places():
  x = np.array([[0.0, 1.0], [2.0, 3.0]])
  got = heat_maps.enlarge(x, 4, 4)
  want = np.array([0.0, 0.25, 0.75, 1.0])
  np.testing.assert_allclose(got[0], want)
  np.testing.assert_allclose(got[:, 0], 2 * want)
  np.testing.assert_allclose(heat_maps.enlarge(x, 2, 2), x)


def test_warm_where_the_map_is_high_and_marks_on_top():
  frame = np.full((12, 12, 3), 100, np.uint8)
  heat = np.zeros((3, 3))
  heat[0, 2] = 5.0
  got = heat_maps.overlay(frame, heat, scale=2)
  assert got.shape == (24, 24, 3)
  assert got[2, -3].sum() > 2 * got[-3, 2].sum()
  marked = heat_maps.overlay(
    frame, heat, box=np.array([0.25, 0.0, 1.0, 0.5]), peak=(5 / 6, 1 / 6), scale=2
  )
  assert (marked[0, 6:] == heat_maps.BOX).all()
  assert (marked[:13, 6] == heat_maps.BOX).all()
  assert (marked[4, 20] == heat_maps.PEAK).all()
  assert (marked[-2:] == got[-2:]).all()
  flat = heat_maps.overlay(frame, np.full((2, 2), np.nan))
  np.testing.assert_array_equal(flat, np.full_like(flat, 55))
  with pytest.raises(ValueError, match="uint8"):
    heat_maps.overlay(frame.astype(float), heat)


def test_pictures_of_a_run_stand_in_its_report(tmp_path):
  frames = np.random.default_rng(0).integers(0, 255, (3, 2, 16, 16, 3)).astype(np.uint8)
  ids = np.array([4, 7, 9])
  batches = [{"example_id": ids, "video_frames": frames}]
  evaluator = sounding_object.Evaluator(lambda *a, **k: None, batches)
  assert examples.pictures({"place": evaluator, "other": object()}) == []
  one = dict(map=np.eye(4), box=np.array([0, 0, 0.5, 0.5]), peak=(0.1, 0.1), frame=1)
  evaluator.examples = [
    one | dict(example_id=7, right=True),
    one | dict(example_id=4, right=False),
  ]
  found = examples.pictures({"place": evaluator})
  assert [p["right"] for p in found] == [True, False]
  assert found[0]["frames"].shape == (2, 192, 192, 3)
  np.testing.assert_array_equal(found[0]["frames"][0, ::12, ::12], frames[1, 1])
  text = report.write(tmp_path, results={}, metrics=[], pictures=found).read_text()
  assert "Where the sound comes from" in text
  assert "Clip 7" in text
  assert "the peak misses the box" in text
  assert text.count("data:image/jpeg;base64,") == 2
  assert "Where the sound" not in report.write(tmp_path, results={}).read_text()
