"""Does the sound belong to the picture? Right and wrong pairs of held-out clips."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import pairs
from vlp_jax.metrics import Result

NEGATIVES = ("easy", "hard")


class Evaluator:
  """As many wrong pairs as right ones, one of each for a row.

  Args:
    apply: of a model whose method `score` gives match_logits [P] or [P, 2] (no, yes).
    batches: re-iterable of rows with picture and sound.
    outputs: of picture and sound, what `score` reads: video_features, audio_features of
      L3-Net, video_embed, audio_embed of AVE-Net and AVTS, video_map, audio_embed of
      AVOL-Net.
    negatives: "easy", the sound of another `group_id`, or "hard", of another window of
      the same clip, half of its windows further on: with `windows=2` in the input its
      other end.
    chunk: pairs at a time; seed: of the easy pairs.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    outputs: tuple[str, str] = ("video_embed", "audio_embed"),
    negatives: str = "easy",
    chunk: int = 256,
    seed: int = 0,
  ):
    if negatives not in NEGATIVES:
      raise ValueError(f"negatives={negatives!r}; one of {NEGATIVES}.")
    self.batches, self.negatives, self.seed = batches, negatives, seed
    self.pairs = pairs.Pairs(apply, outputs, chunk=chunk)

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`accuracy` of all pairs; `two_way`, rows whose own sound scores higher.

    Ties and NaN are wrong. Rows without a wrong partner do not count.
    """
    out = self.pairs.encode(variables, self.batches)
    group, own = out["group_id"], np.arange(len(out["group_id"]))
    hard = self.negatives == "hard"
    partner, found = (
      pairs.other_windows(group) if hard else pairs.others(group, self.seed)
    )
    if not found.any():
      raise ValueError(
        "no row has a partner: give clips of several "
        + ("windows (input.windows=2)." if hard else "group_ids.")
      )
    key = ("match_logits",)
    right, wrong = (
      pairs.yes(self.pairs.score(variables, out, at, key)[key[0]])[found]
      for at in (own, partner)
    )
    told = f"sounds of {'other windows' if hard else 'other clips'}, 1:1"
    hits = np.concatenate([right > 0, wrong < 0])
    yield "accuracy", Result.of(hits, chance=0.5, protocol=told)
    told += "; of the two sounds of a row the right one is taken"
    yield "two_way_accuracy", Result.of(right > wrong, chance=0.5, protocol=told)
