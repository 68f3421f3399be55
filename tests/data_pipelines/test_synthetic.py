"""The generated corpus: same files each time, true boxes, no way around the video."""

import collections
import hashlib
import itertools
import json
import pathlib
import subprocess
import sys

import av
import numpy as np
import pytest

from data_pipelines.synthetic import (
  __main__ as cli,
)
from data_pipelines.synthetic import (
  clips,
  corpus,
  motion,
  questions,
  render,
  sound,
  speech,
  words,
  world,
)

SMALL = dict(num_clips=6, num_val=1, num_test=3, num_long=1, seconds=2.0, seed=5)
RED = np.array(world.RGB["red"], np.float32)


def files(folder: pathlib.Path) -> dict[str, str]:
  paths = sorted(p for p in folder.rglob("*") if p.is_file())
  hashed = lambda p: hashlib.sha256(p.read_bytes()).hexdigest()
  return {str(p.relative_to(folder)): hashed(p) for p in paths}


def rows(folder: pathlib.Path, file: str) -> list[dict]:
  lines = (folder / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
  return [json.loads(line) for line in lines]


def decoded(path: pathlib.Path) -> np.ndarray:
  with av.open(str(path)) as video:
    return np.stack([f.to_ndarray(format="rgb24") for f in video.decode(video=0)])


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> pathlib.Path:
  out = tmp_path_factory.mktemp("corpus")
  assert corpus.generate(out, **SMALL, processes=1)["made"] == 12
  return out


def test_bytes_do_not_depend_on_processes_or_interruption(made, tmp_path):
  out = tmp_path / "other"
  corpus.generate(out, **SMALL | {"num_clips": 2}, processes=1)
  (out / "videos/test/test_000001.json").unlink()  # stopped between video and row
  (out / "videos/test/test_000001.mp4").write_bytes(b"half")
  assert corpus.generate(out, **SMALL, processes=2)["made"] == 4 + 1
  assert files(out) == files(made)
  assert corpus.generate(out, **SMALL, processes=2)["made"] == 0
  assert files(out) == files(made)


def test_another_seed_gives_other_clips():
  settings = [clips.Settings(seed=s, seconds=1.0) for s in (0, 0, 1)]
  combo = world.Combo("star", "red", "rise")
  a, b, c = (clips.clip("train", 3, combo, s) for s in settings)
  np.testing.assert_array_equal(a.frames, b.frames)
  assert a.row == b.row
  assert a.frames.shape != c.frames.shape or (a.frames != c.frames).any()


def test_other_settings_in_the_same_folder_are_refused(made, capsys):
  with pytest.raises(ValueError, match="holds clips with seed 5, not 6"):
    corpus.generate(made, **SMALL | {"seed": 6}, processes=1)
  assert cli.main(["--out", str(made), "--size", "32", "--seed", "5"]) == 2
  error = capsys.readouterr().err
  assert error.count("\n") == 1
  assert "holds clips with" in error


@pytest.mark.parametrize(
  ("args", "said"),
  [
    (["--num_clips", "-3"], "-3 clips for train"),
    (["--size", "4000"], "size is 4000 px"),
    (["--seconds", "nan"], "seconds is nan"),
    (["--processes", "0"], "processes is 0"),
    (["--colour", "red"], "unrecognized arguments"),
    (["--num_test", "many"], "invalid int value"),
  ],
)
def test_bad_arguments_are_one_line_and_exit_2(args, said, tmp_path, capsys):
  try:
    code = cli.main(["--out", str(tmp_path / "x"), *args])
  except SystemExit as e:
    code = e.code
  error = capsys.readouterr().err
  assert code == 2
  assert said in error
  assert error.count("\n") == 1
  assert not (tmp_path / "x").exists()


def test_dry_run_writes_nothing(tmp_path, capsys):
  assert cli.main(["--out", str(tmp_path / "x"), "--num_clips", "60", "--dry_run"]) == 0
  assert "376 videos" in capsys.readouterr().out  # 60 + 10 + 300 + 3 + 3
  assert not (tmp_path / "x").exists()


def test_neither_jax_nor_tensorflow_is_imported():
  code = (
    "import sys; from data_pipelines.synthetic import corpus, __main__; "
    "sys.exit(any(m in sys.modules for m in ('jax', 'tensorflow', 'flax')))"
  )
  assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_splits_are_disjoint_and_training_covers_every_pair():
  for seed in (0, 1, 7):
    parts = world.combos(seed)
    assert {k: len(v) for k, v in parts.items()} == dict(train=512, val=64, test=192)
    assert len(set().union(*parts.values())) == 768
    train, test = np.array(parts["train"]), np.array(parts["test"])
    for axes in ([0, 1], [0, 2], [1, 2]):
      sizes = [len(world.SHAPES), len(world.COLOURS), len(world.ACTIONS)]
      pairs = collections.Counter(map(tuple, train[:, axes]))
      assert len(pairs) == sizes[axes[0]] * sizes[axes[1]]
      held = collections.Counter(map(tuple, test[:, axes]))
      assert set(held.values()) == {192 // len(pairs)}  # even in every pair


def test_attributes_are_even_and_independent():
  """Each value of one attribute goes with every value of another: chi-square."""
  for split, num in (("train", 600), ("test", 300)):
    plan = np.array(world.plan(split, 3, num))
    codes = [np.unique(plan[:, k], return_inverse=True)[1] for k in range(3)]
    for code in codes:
      count = np.bincount(code)
      assert np.ptp(count) <= 0.12 * count.mean() + 2
    for a, b in itertools.combinations(codes, 2):
      table = np.zeros((a.max() + 1, b.max() + 1))
      np.add.at(table, (a, b), 1)
      want = table.sum(1, keepdims=True) * table.sum(0) / num
      freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
      assert ((table - want) ** 2 / want).sum() < freedom  # evener than by chance


def test_a_longer_plan_begins_with_the_shorter_and_galleries_are_distinct():
  plan = world.plan("test", 0, 250)
  assert plan[:130] == world.plan("test", 0, 130)
  for start in (0, 100, 200):
    part = plan[start : start + 100]
    assert len(set(part)) == len(part)
  assert set(plan) <= set(world.combos(0)["test"])


@pytest.mark.parametrize("action", world.ACTIONS)
def test_every_action_is_seen_on_every_shape(action):
  u = (np.arange(40) - 19.5) / 10
  for shape in world.SHAPES:
    rng = np.random.default_rng(1)
    frames = np.full((40, 64, 64, 3), 90, np.float32)
    moves = motion.draw(action, rng, 64, 64, radius=10.0)
    render.paint(frames, shape, RED, motion.track(moves, u))
    changed = frames[..., 0].std(axis=0) > 15  # [H, W]
    assert changed.sum() >= 40, shape


@pytest.mark.parametrize(("action", "other"), list(world.MIRROR.items())[:4])
def test_a_mirrored_pair_differs_in_the_order_of_time_only(action, other):
  u = (np.arange(30) - 14.5) / 10
  film, heard = [], []
  for name, at in ((action, u), (other, -u)):
    moves = motion.draw(name, np.random.default_rng(2), 72, 64, radius=11.0)
    frames = np.zeros((30, 64, 72, 3), np.float32)
    render.paint(frames, "heart", RED, motion.track(moves, at))
    film.append(frames)
    heard.append(sound.envelope(moves.path, moves.cycles(at)))
  np.testing.assert_allclose(*film, atol=0.01)
  np.testing.assert_allclose(*heard, atol=1e-9)
  assert np.abs(film[0] - film[0][::-1]).mean() > 1  # yet it has a direction


@pytest.mark.parametrize(
  ("action", "sense"),
  [("move_left", (-1, 0)), ("move_right", (1, 0)), ("rise", (0, -1)), ("fall", (0, 1))],
)
def test_directions_are_what_their_names_say(action, sense):
  moves = motion.draw(action, np.random.default_rng(0), 64, 64, radius=10.0)
  track = motion.track(moves, np.linspace(-2, 2, 60))
  steps = np.stack([np.diff(track.x), np.diff(track.y)], axis=1)  # [59, 2]
  along = steps @ np.array(sense)
  assert (along > 0).mean() > 0.9  # but where it starts again
  np.testing.assert_allclose(steps @ np.array(sense[::-1]), 0)


def test_clockwise_is_clockwise_on_the_screen():
  moves = motion.draw("spin_clockwise", np.random.default_rng(0), 64, 64, radius=16.0)
  track = motion.track(moves._replace(tilt=0.0, phase=0.0), np.array([0.0, 0.3]))
  _, mark = render.coverage("circle", track, 64, 64)
  y, x = np.mgrid[:64, :64] + 0.5
  place = [((x * m).sum() / m.sum(), (y * m).sum() / m.sum()) for m in mark]
  assert place[0][0] > moves.x + 5  # the dot is at the right, then lower
  assert place[1][1] > place[0][1] + 2


def test_boxes_hold_the_coloured_pixels_of_the_subject(made):
  checked = 0
  for row in rows(made, "train") + rows(made, "test"):
    frames = decoded(made / row["video"]).astype(float)
    assert frames.shape[1:] == (row["height"], row["width"], 3)
    assert len(frames) == round(row["duration_s"] * row["rate_hz"])
    for thing in row["objects"]:
      box = np.array(thing["boxes"])
      assert box.shape == (len(frames), 4)
      assert (box >= 0).all()
      assert (box <= 1).all()
      assert (box[:, :2] < box[:, 2:]).all()
    subject = row["objects"][0]
    assert subject["role"] == "subject"
    near = np.abs(frames - world.RGB[subject["colour"]]).max(-1) < 60  # [T, H, W]
    for mask, box in zip(near, subject["boxes"], strict=True):
      x1, y1, x2, y2 = np.round(
        np.array(box) * [*mask.shape[::-1], *mask.shape[::-1]]
      ).astype(int)
      inside = np.zeros_like(mask)
      inside[y1:y2, x1:x2] = True
      if row["action"] != "blink":
        assert mask[inside].mean() > 0.15
        assert mask[~inside].mean() < 0.02
        checked += 1
  assert checked > 50


def test_sound_lasts_as_long_as_the_picture(made):
  for file in world.FILES:
    row = rows(made, file)[0]
    with av.open(str(made / row["video"])) as video:
      assert video.streams.video[0].codec_context.name == "h264"
      sound = video.streams.audio[0]
      assert (sound.codec_context.name, sound.rate) == ("aac", 16_000)
      pcm = np.concatenate([f.to_ndarray()[0] for f in video.decode(audio=0)])
    assert len(pcm) / 16_000 == pytest.approx(row["duration_s"], abs=0.13)
    assert np.sqrt((pcm**2).mean()) > 0.01


def test_sound_tells_shape_colour_and_action():
  """Pitch is that of the colour, whatever the shape; noise stays below the tone."""
  moves = motion.draw("blink", np.random.default_rng(0), 64, 64, radius=10.0)
  for shape in world.SHAPES:
    combo = world.Combo(shape, "green", "blink")
    rng = np.random.default_rng(4)
    pcm = sound.tone(combo, moves, rng, duration_s=4.0, rate_hz=16_000)
    power = np.abs(np.fft.rfft(pcm.astype(float))) ** 2
    hz = np.fft.rfftfreq(len(pcm), 1 / 16_000)
    orders = np.array([1, 2, 3, 4, 5, 6])
    at = [np.abs(hz / (h * sound.PITCH_HZ["green"]) - 1) < 0.025 for h in orders]
    got = np.sqrt([power[band].sum() for band in at])
    want = np.array(sound.HARMONICS[shape])
    np.testing.assert_allclose(got / got.max(), want / want.max(), atol=0.12)
  timbres = np.array(list(sound.HARMONICS.values()))
  timbres /= np.linalg.norm(timbres, axis=1, keepdims=True)
  assert (timbres @ timbres.T - np.eye(8)).max() < 0.95


def test_rows_have_all_fields(made):
  row = rows(made, "test")[2]
  assert row["gallery"] == 0
  assert row["clip_id"] == "test_000002"
  assert len(set(row["captions"])) == 3
  assert row["tags"] == {"verb": row["action"], "noun": row["shape"]}
  assert row["steps"][0]["end"] == row["duration_s"] == 2.0
  assert [c["varies"] for c in row["choices"]] != []
  assert "gallery" not in rows(made, "train")[0]
  head = json.loads((made / "corpus.json").read_text())
  assert len(head["held_out"]["test"]) == 192
  assert head["splits"]["test_long"] == 1


def test_long_videos_go_through_their_steps(made):
  row = rows(made, "train_long")[0]
  assert 3 <= len(row["steps"]) <= 5
  assert row["steps"][-1]["end"] == pytest.approx(row["duration_s"], abs=1e-3)
  for one, two in itertools.pairwise(row["steps"]):
    assert one["end"] == two["start"]
    assert all(one[k] != two[k] for k in ("shape", "colour", "action"))
  subjects = [o for o in row["objects"] if o["role"] == "subject"]
  seen = np.array([[b is not None for b in o["boxes"]] for o in subjects])
  np.testing.assert_array_equal(seen.sum(axis=0), 1)  # one subject at each moment
  assert len(row["choices"][0]["choices"]) == 5


def test_narrations_are_loose_in_time_and_mostly_tell_all():
  rng = np.random.default_rng(0)
  full = inside = 0
  for _ in range(200):
    combo = world.Combo("ring", "green", "rise")
    said = speech.narrations(combo, rng, start=0.0, end=4.0)
    assert 4 <= len(said) <= 6
    assert said[0]["start"] >= -2
    assert said[-1]["end"] <= 6
    assert all(a["end"] <= b["start"] + 0.011 for a, b in itertools.pairwise(said))
    tells = lambda text: all(
      any(word in text for word in names)
      for names in (
        words.SHAPES["ring"],
        words.COLOURS["green"],
        tuple(itertools.chain(*words.ACTIONS["rise"])),
      )
    )
    near = sorted(said, key=lambda s: abs(s["start"] + s["end"] - 4))[:4]
    full += any(tells(s["text"]) for s in near)
    inside += all(s["start"] >= 0 and s["end"] <= 4 for s in said)
  assert full > 140
  assert inside < 20


def test_the_text_alone_does_not_answer():
  """Each value is right as often as it is on offer: a fifth of the sets, half of yes.

  Actions with and without a mirror are drawn differently, so they are counted apart.
  """
  rng = np.random.default_rng(0)
  right, offered = collections.Counter(), collections.Counter()
  yes, asked = collections.Counter(), collections.Counter()
  paired = lambda action: action in world.MIRROR
  by_words = {words.PLAIN[a]: a for a in world.ACTIONS}
  for _ in range(4000):
    values = (world.SHAPES, world.COLOURS, world.ACTIONS)
    combo = world.Combo(*(str(rng.choice(v)) for v in values))
    offer = [combo.action, *questions._wrong("action", combo.action, [], rng)]
    assert len(set(offer)) == 5
    assert world.MIRROR.get(combo.action, combo.action) in offer
    kind = sum(map(paired, offer))
    offered.update((kind, paired(a)) for a in offer)
    right[kind, paired(combo.action)] += 1
    question = questions._is_it(combo, [], rng)
    subject = f"is the {combo.colour} {combo.shape} "
    if question["question"].startswith(subject):
      action = by_words[question["question"].removeprefix(subject).rstrip("?")]
      asked[paired(action)] += 1
      yes[paired(action)] += question["answer"] == "yes"
  assert len(offered) == 4
  for group, count in offered.items():
    assert right[group] / count == pytest.approx(0.2, abs=0.02)
  for group, count in asked.items():
    assert count > 300
    assert yes[group] / count == pytest.approx(0.5, abs=0.08)


def test_choices_differ_in_one_attribute_and_have_one_truth():
  rng = np.random.default_rng(0)
  combo = world.Combo("star", "cyan", "grow")
  for _ in range(20):
    sets = questions.choices(combo, [world.Combo("ring", "red", "still")], rng)
    assert {s["varies"] for s in sets} == {"shape", "colour", "action"}
    for one in sets:
      assert len(set(one["choices"])) == 5
      true = one["choices"][one["answer"]]
      if one["varies"] == "action":  # all the same but for the verb
        assert all("star" in text for text in one["choices"])
      else:
        kind = getattr(words, f"{one['varies']}s".upper())
        assert any(w in true for w in kind[getattr(combo, one["varies"])])
