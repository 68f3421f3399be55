"""Zero-shot classification by a template: its vocabulary file."""

import pytest

from vlp_jax import vocab
from vlp_jax.errors import UserError
from vlp_jax.evaluators import zero_shot_template


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_line_of_the_vocabulary_is_a_token(tmp_path, end):
  """Also those that hold what `splitlines` takes for an end."""
  tokens = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "cut", "\u0085", "a\u2028b", "stir"]
  file = tmp_path / "vocab.txt"
  file.write_bytes((end.join(tokens) + end).encode())
  evaluator = zero_shot_template.Evaluator(
    None,
    [],
    template="[MASK] stir",
    candidates=(("verb", ("cut", "stir")),),
    labels=("label_verb",),
    tokens=str(file),
    vocab=vocab.Vocab(len(tokens), 0, cls_id=1, sep_id=2, mask_id=3),
  )
  assert evaluator.template.tolist() == [1, 3, 7, 2]


def test_candidates_may_stand_in_a_file(tmp_path):
  tokens = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "cut", "Stir", "."]
  file = tmp_path / "verbs.txt"
  file.write_text("cut cuts cutting\nStir stirs\n")
  given = dict(template="[MASK] .", labels=("label_verb",), tokens=tokens)
  given |= dict(vocab=vocab.Vocab(len(tokens), 0, cls_id=1, sep_id=2, mask_id=3))
  make = lambda words: zero_shot_template.Evaluator(
    None, [], candidates=(("verb", words),), **given
  )
  ((_, name, ids, classes, label),) = make(str(file)).slots
  assert (name, label) == ("verb", "label_verb")
  assert (ids.tolist(), classes.tolist()) == ([4, 5], [0, 1])
  with pytest.raises(UserError, match=r"candidates=.*cannot be read"):
    make(str(tmp_path / "none.txt"))
