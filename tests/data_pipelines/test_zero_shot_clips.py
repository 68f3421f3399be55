"""Classes by their names and choices of captions: files of users to results by hand."""

import json

import numpy as np
import pytest

from data_pipelines import batches, index, records
from data_pipelines.readers import msrvtt, rareact
from data_pipelines.tasks import zero_shot_clips
from tests.reference import shards
from tests.reference.layout import put
from vlp_jax import batch as contract
from vlp_jax.errors import UserError
from vlp_jax.evaluators import multiple_choice, segments

NAMES = ("blue circle", "red circle", "red square")
# Of five clips: class and rating of each.
RATED = ((0, "1"), (1, "1"), (2, "0"), (2, "1"), (0, "3"))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
  out = tmp_path_factory.mktemp("rated") / "out"
  with index.ShardWriter(out, "test", 1, columns=("num_captions",)) as writer:
    for k, (action, rating) in enumerate(RATED):
      context, lists = records.decode(shards.clip(k, sound=False)[0])
      context |= {"label/action": action, "tag/rating": rating, "tag/video": "abbaa"[k]}
      options = [shards.sentence(j, 2) for j in range(4)]
      lists = {n: [v[0] for v in lists[n]] for n in ("video/frames", "video/times")}
      lists |= {"choice/options": [options, options[:2]], "choice/answer": [k % 4, 0]}
      writer.write(0, records.encode(context, lists), num_captions=0)
  info = {"name": "tiny", "kind": "narrated_clips", "splits": ["test"]}
  index.write_info(out, info | {"classes": {"action": list(NAMES)}})
  return out


def given(stored, **more):
  base = dict(task="zero_shot_clips", dir=str(stored), split="test", size=16)
  return base | dict(num_frames=2, rows=4) | more


def evaluated(stored, **more):
  found = list(batches.evaluation(given(stored, **more), vocab=shards.dictionary()))
  for batch in found:
    contract.check(batch)
  return found


def apply(variables, batch, *, rng=None, train=False, method=None):
  """A clip is its number; a text the product of its ids with a table."""
  del rng, train
  if method == "encode_video":
    return {"video_embed": variables["clips"][batch["group_id"]]}, {}
  stream = "narration" if "narration_ids" in batch else "text"
  words = variables["words"][batch[f"{stream}_ids"]]
  return {"text_embed": (words * batch[f"{stream}_mask"][..., None]).sum(-2)}, {}


def test_ratings_say_what_is_compared(stored):
  found = evaluated(stored, windows=2)
  label = np.concatenate([b["label"][b["example_mask"]] for b in found])
  want = [[1, 0, 0], [0, 1, 0], [-1, -1, 0], [0, 0, 1], [0, -1, -1]]
  assert label[::2].tolist() == label[1::2].tolist() == want
  hard = np.concatenate([b["label_hard"][b["example_mask"]] for b in found])[::2]
  # Right for 0 "blue circle": "red circle" shares the noun, "red square" nothing.
  assert hard.astype(int).tolist() == [
    [0, 1, 0],
    [1, 0, 1],
    [0, 0, 0],
    [0, 1, 0],
    [1, 0, 0],
  ]
  video = np.concatenate([b["label_video"][b["example_mask"]] for b in found])[::2]
  assert video[0] == video[3] == video[4] != video[1] == video[2]
  classes = evaluated(stored, unit="class", templates=("{}", "fast {}"))
  words = shards.dictionary()
  flat = {k: np.concatenate([b[k] for b in classes]) for k in classes[0]}
  assert flat["label_class"][:6].tolist() == [0, 0, 1, 1, 2, 2]
  assert flat["example_mask"].sum() == 6
  ids = flat["text_ids"][3][flat["text_mask"][3]].tolist()
  assert ids == words.encode("fast red circle")


def test_mean_average_precision_of_words_by_hand(stored):
  words = shards.dictionary()
  one = {"blue": [1.0, 0.0], "red": [0.0, 1.0], "circle": [1.0, 1.0]}
  table = np.zeros((words.spec.size, 2), np.float32)
  for word, x in (one | {"square": [0.0, 3.0]}).items():
    table[words.encode(word)[0]] = x
  # Texts: blue circle (2, 1), red circle (1, 2), red square (0, 4).
  clips = np.array([[3, 0], [2, 2], [1, 1], [0, 1], [9, 9]], np.float32)
  texts = evaluated(stored, unit="class")
  videos = evaluated(stored, windows=2)
  run = segments.ZeroShot(apply, texts, videos).run({"words": table, "clips": clips})
  found = dict(run)
  # Class 0, rated 0 1 3 4: scores 6, 6, 1, 27: the tie goes against the right one.
  # Class 1, rated 0 1 3: 3, 6, 2. Class 2, rated 0 1 2 3: 0, 8, 4, 4: tie again.
  assert found["map"].value == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)
  assert found["map"].n == 3
  # mWAP. Class 0: 27 (clip 4) above 6 and 6 (0 right, 1), 1 (3): 1 of 3 at the tie.
  # Class 1: its own 6 (1) first. Class 2: 8 (1), then 4 and 4 (2, 3 right): 1 of 3.
  assert found["mwap"].value == pytest.approx((1 / 3 + 1 + 1 / 3) / 3)


def test_choices_by_hand(stored):
  (first, second) = evaluated(stored, unit="choice", choices=4, rows=4)
  assert first["label"].tolist() == [0, 1, 2, 3]
  assert second["label"][:1].tolist() == [0]
  words = shards.dictionary()
  ids = first["choice_ids"][1, 2][first["choice_mask"][1, 2]].tolist()
  assert ids == words.encode(shards.sentence(2, 2))
  table = np.eye(words.spec.size, dtype=np.float32)
  clips = np.stack(
    [table[words.encode(shards.sentence(j, 2))].sum(0) for j in range(5)]
  )
  clips[2] = clips[0]  # says another choice
  run = multiple_choice.Evaluator(apply, [first, second])
  result = dict(run.run({"words": table, "clips": clips}))["accuracy"]
  # Clip 4 is right for choice 0, "red blue"; it says "moves left".
  assert result.value == pytest.approx(3 / 5)
  assert result.chance == pytest.approx(1 / 4)


def test_files_of_users(tmp_path):
  text = "id,video_id,start,end,class_id,verb,noun,annotation\n"
  text += "0,7frRY7aGwMU,50,60,0,shake,tomato,0\n1,abc,3,5,8,cut,laptop,1\n"
  put(tmp_path, {"rareact.csv": f"{text}2,abc,9,5,8,cut,laptop,1\n"})
  first, second, bad = rareact.read(tmp_path)
  assert (first.start, first.end, first.media) == (50, 60, "7frRY7aGwMU")
  assert first.labels == {
    "action": "shake tomato",
    "rating": "0",
    "video": "7frRY7aGwMU",
  }
  assert second.labels["rating"] == "1"
  assert "from 9" in bad.error
  line = {"clip_name": "video1", "qid": 7, "options": list("abcde"), "answer": 3}
  lines = [line, line | {"answer": 5}, {"clip_name": "x"}]
  put(tmp_path, {"msrvtt_mc.jsonl": "\n".join(map(json.dumps, lines))})
  row, odd, other = msrvtt.multiple_choice(tmp_path)
  assert row.choices[0].options == tuple("abcde")
  assert (row.media, row.split, row.choices[0].answer) == ("video1", "test", 3)
  assert "answer 5 of 5" in odd.error
  assert "options" in other.error


def test_mistakes_are_told(stored):
  for more, message in (
    (dict(unit="video"), "Known: clip, class, choice"),
    (dict(unit="class", templates=("a",)), "for the class"),
    (dict(windows=0), "must be positive"),
    (dict(short="grey"), "Known: black, loop"),
  ):
    with pytest.raises(UserError, match=message):
      evaluated(stored, **more)
  with pytest.raises(UserError, match="needs a vocabulary"):
    batches.evaluation(given(stored, unit="class"))
  with pytest.raises(UserError, match="for evaluation only"):
    batches.build(given(stored))
  assert zero_shot_clips.rated(1, "2", 3).numpy().tolist() == [-1, 0, -1]
