"""Region features from true objects: boxes, projection, soft labels, noise."""

import zlib
from typing import NamedTuple

import numpy as np
import pytest

from data_pipelines.readers import true_regions
from data_pipelines.synthetic import box_scenes


def scene(seed=0, family="scatter"):
  return box_scenes.random_scene(np.random.RandomState(seed), "s", family)


def by_hash(seed, name, column):
  """splitmix64 on Python's integers."""
  z = (zlib.crc32(f"{seed}/{name}".encode()) << 32) + column + 1
  z = z * 0x9E3779B97F4A7C15 % 2**64
  z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
  z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
  return ((z ^ z >> 31) >> 40) / 2**23 - 1


def test_box_golden():
  got = true_regions.encode_boxes([(20, 10, 120, 60)], 200, 100)
  assert got.dtype == np.float32
  np.testing.assert_allclose(got, [(0.1, 0.1, 0.6, 0.6, 0.5, 0.5, 0.25)], rtol=1e-6)


@pytest.mark.parametrize("box", [(0, 0, 201, 10), (-1, 0, 5, 5), (5, 5, 5, 9)])
def test_boxes_outside_or_empty_are_refused(box):
  with pytest.raises(ValueError, match="not inside a picture of 200 x 100"):
    true_regions.encode_boxes([(0, 0, 200, 100), box], 200, 100)


def test_projection_is_a_hash():
  got = true_regions.projection(["shape circle", "box 3"], dim=5, seed=7)
  want = [[by_hash(7, n, i) for i in range(5)] for n in ("shape circle", "box 3")]
  np.testing.assert_allclose(got, want, atol=1e-7)
  whole = true_regions.projection([f"n{i}" for i in range(64)], dim=2048)
  assert abs(whole.mean()) < 0.01
  assert abs(whole.std() - 3**-0.5) < 0.01
  assert np.abs(np.corrcoef(whole) - np.eye(64)).max() < 0.12


def test_features_without_noise_are_the_formula():
  o = box_scenes.Object("circle", "blue", "big", 1, 20, 10)
  found = true_regions.features([o], dim=16, seed=3, noise=0.0)
  kind = true_regions.NLVR.names.index("big blue circle")
  names = ["shape circle", "colour blue", "size big", f"class {kind}"]
  box = np.array([170, 10, 200, 40]) / (400, 100, 400, 100)
  w, h = box[2] - box[0], box[3] - box[1]
  want = true_regions.projection(names, dim=16, seed=3).sum(axis=0)
  for i, v in enumerate((*box, w, h, w * h)):
    want = want + (2 * v - 1) * true_regions.projection([f"box {i}"], dim=16, seed=3)[0]
  np.testing.assert_allclose(found.features[0], np.maximum(want, 0), atol=2e-3)
  assert (found.objects[0], found.attributes[0]) == (kind, 2)
  assert found.conf[0] == np.float32(0.9)


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_shapes_types_and_ranges(noise):
  objects = scene().objects
  found = true_regions.features(objects, dim=32, noise=noise, key="k")
  num, classes = len(objects), len(true_regions.NLVR.names)
  assert classes == 28
  shapes = [(num, 32), (num, 7), (num,), (num,), (num,), (num, classes)]
  kinds = ["float16", "float32", "int32", "int32", "float32", "float16"]
  assert [x.shape for x in found] == shapes
  assert [str(x.dtype) for x in found] == kinds
  assert found.features.min() >= 0
  assert (found.features > 0).mean() > 0.2
  assert (np.diff(found.conf) <= 0).all()
  np.testing.assert_allclose(found.probs.astype(np.float64).sum(axis=1), 1, atol=2e-3)
  assert (found.probs.argmax(axis=1) == found.objects).all()
  np.testing.assert_allclose(found.probs.max(axis=1), found.conf, atol=1e-3)
  assert found.probs[:, 0].min() > 0
  want = sorted(true_regions.NLVR.index(o) for o in objects)
  assert sorted(found.objects) == want


def test_rows_stay_together_when_sorted():
  objects = scene().objects
  found = true_regions.features(objects, dim=8, key="order")
  boxes = true_regions.encode_boxes([o.box for o in objects], 400, 100)
  for i, box in enumerate(found.boxes):
    o = objects[int(np.abs(boxes - box).sum(axis=1).argmin())]
    assert found.objects[i] == true_regions.NLVR.index(o)
    assert true_regions.NLVR.attributes[found.attributes[i]] == o.colour


def test_noise_follows_the_key():
  objects = scene().objects
  a, again, b = (true_regions.features(objects, dim=8, key=k) for k in "aab")
  for x, y in zip(a, again, strict=True):
    np.testing.assert_array_equal(x, y)
  assert not np.array_equal(a.conf, b.conf)


def test_a_narrow_feature_is_the_beginning_of_a_wide_one():
  objects = scene().objects
  wide = true_regions.features(objects, dim=64, noise=0.0).features
  narrow = true_regions.features(objects, dim=16, noise=0.0).features
  np.testing.assert_allclose(wide[:, :16], narrow, atol=2e-3)
  other = true_regions.features(objects, dim=64, noise=0.0, seed=1).features
  assert np.abs(wide.astype(np.float32) - other).mean() > 0.3


def test_colour_can_be_read_from_features():
  rows = [
    true_regions.features(scene(i).objects, dim=96, key=str(i)) for i in range(60)
  ]
  x = np.concatenate([r.features for r in rows]).astype(np.float64)
  y = np.concatenate([r.attributes for r in rows])
  cut = len(x) // 2
  weights = np.linalg.lstsq(x[:cut], np.eye(4)[y[:cut]], rcond=None)[0]
  assert ((x[cut:] @ weights).argmax(axis=1) == y[cut:]).mean() > 0.97


def test_other_worlds_without_sizes():
  class Thing(NamedTuple):
    shape: str = "star"
    colour: str = "red"
    size: str = ""
    box: tuple = (0, 0, 8, 8)

  classes = true_regions.Classes(("ring", "star"), ("red", "cyan"), ("",))
  found = true_regions.features([Thing()], size=(64, 64), classes=classes, dim=4)
  assert classes.names == (
    "background",
    "red ring",
    "cyan ring",
    "red star",
    "cyan star",
  )
  assert found.objects.tolist() == [3]
  assert found.probs.shape == (1, 5)
  with pytest.raises(ValueError, match="not in tuple"):
    true_regions.features([Thing(colour="mauve")], classes=classes, dim=4)


def test_a_picture_without_objects_is_refused():
  with pytest.raises(ValueError, match="'k7' has no object"):
    true_regions.features([], key="k7")
