"""Zero-shot classification by a template: its vocabulary file."""

import pytest

from vlp_jax import vocab
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
