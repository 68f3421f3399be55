"""The nearest training clip's caption, scored as written ones are."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax.errors import UserError
from vlp_jax.evaluators import caption_retrieval, caption_scores
from vlp_jax.vocab import Vocab

WORDS = ["[pad]", "[cls]", "[sep]", "a", "man", "dog", "runs", "sits", "red"]
TRAIN = ["a man runs", "a dog sits", "a red dog runs"]
TEST = [["a man runs", "a man"], ["a red dog sits"], ["a dog sits"]]
NEAREST = [0, 2, 1]


class Words:
  spec = Vocab(len(WORDS), 0, cls_id=1, sep_id=2, special_ids=(0, 1, 2))

  def decode(self, ids):
    return " ".join(WORDS[i] for i in ids)


def texts(lines):
  rows = [[1, *map(WORDS.index, t.split()), 2] for t in lines]
  ids = np.array([r + [0] * (6 - len(r)) for r in rows], np.int32)
  lengths = np.array([len(r) for r in rows])
  return {"text_ids": ids, "text_mask": np.arange(6) < lengths[:, None]}


def apply(variables, batch, *, rng=None, train=False, method=None):
  assert method == "encode_video"
  return {"video_features": batch["clips_features"][:, 0] @ variables}, {}


def sets():
  rng = np.random.default_rng(0)
  at = rng.normal(size=(3, 2, 4)).astype(np.float32)
  mask = np.array([[True, True], [True, False], [True, True]])
  near = 5 * at + 0.01 * rng.normal(size=at.shape).astype(np.float32)
  train = texts(TRAIN) | {"clips_features": at, "clips_mask": mask}
  train["example_id"] = np.arange(3, dtype=np.int32)
  item = [i for i, refs in enumerate(TEST) for _ in refs]
  of = [NEAREST[i] for i in item]
  test = texts([t for refs in TEST for t in refs])
  near[1, 1] = 1e3  # not real, as its mask says
  test |= {"clips_features": near[of], "clips_mask": mask[of]}
  test["relevance"] = np.array(item, np.int32)
  split = lambda rows, n: [
    {k: jnp.asarray(x[i : i + n]) for k, x in rows.items()}
    for i in range(0, len(rows["text_ids"]), n)
  ]
  return split(train, 2), split(test, 2)


@pytest.mark.parametrize("feature", ["video_features", "clips_features"])
def test_captions_are_those_of_the_nearest_clips(feature):
  train, test = sets()
  evaluator = caption_retrieval.Evaluator(
    apply, train, test, tokeniser=Words(), feature=feature, item="relevance"
  )
  found = dict(evaluator.run(jnp.eye(4)))
  made = evaluator.scorer.predictions_made
  assert [m["caption"] for m in made] == [TRAIN[i] for i in NEAREST]
  want = caption_scores.score(TEST, [TRAIN[i] for i in NEAREST])
  assert {k: r.value for k, r in found.items()} == {k: s.value for k, s in want.items()}
  assert found["cider_d"].n == 3


def test_an_unknown_feature_is_named():
  train, test = sets()
  evaluator = caption_retrieval.Evaluator(
    apply, train, test, tokeniser=Words(), feature="audio_features", item="relevance"
  )
  with pytest.raises(UserError, match="audio_features"):
    dict(evaluator.run(jnp.eye(4)))
