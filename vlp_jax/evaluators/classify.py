"""Top-k accuracy of class logits; windows of a clip vote by their mean probability."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np

from vlp_jax.evaluators import collect
from vlp_jax.metrics import Result


class Evaluator:
  """Accuracy@k over all groups (or rows) with a label.

  Args:
    apply: of the model; see `collect.Forward`.
    batches: re-iterable; rows of equal `group_id` are one example.
    output: [B, K] logits of the model.
    label: batch key, [B] int, -1 where unknown (not counted).
    ks: cut-offs. Ties and NaN are ahead of the right class.
    name: before `@k` in the metrics' names.
  """

  def __init__(
    self,
    apply: Callable,
    batches: Iterable[Mapping],
    *,
    output: str = "logits",
    label: str = "label",
    ks: tuple[int, ...] = (1, 5),
    method: str | None = None,
    name: str = "accuracy",
  ):
    self.batches, self.output, self.label = batches, output, label
    self.ks, self.name = ks, name
    self.forward = collect.Forward(
      apply, (output, label), method=method, optional=("group_id",)
    )

  def run(self, variables) -> Iterator[tuple[str, Result]]:
    """`<name>@k` for every k; chance is k out of the number of classes."""
    out = self.forward(variables, self.batches)
    logits, label = out[self.output].astype(np.float64), out[self.label]
    if logits.ndim != 2 or label.ndim != 1:
      raise ValueError(
        f"{self.output} {logits.shape} and {self.label} {label.shape}; "
        "expected [B, K] and [B]."
      )
    known = label >= 0
    if not known.any() or label.max() >= logits.shape[1]:
      raise ValueError(
        f"{self.label} lies in [{label.min()}, {label.max()}]; {self.output} has "
        f"{logits.shape[1]} classes."
      )
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))[known]
    probs /= probs.sum(axis=1, keepdims=True)
    group_id = out["group_id"][known] if "group_id" in out else None
    groups = collect.group_mean(probs, group_id)
    right = label[known][groups.first]
    if (right[groups.of] != label[known]).any():
      raise ValueError(f"rows of one group_id differ in {self.label}.")
    at = np.arange(len(right))
    ahead = ~(groups.values < groups.values[at, right][:, None])
    ahead[at, right] = False
    rank, num = ahead.sum(axis=1), probs.shape[1]
    told = f"top-k of {num} classes; ties count against the model"
    for k in self.ks:
      chance = min(k / num, 1.0)
      yield f"{self.name}@{k}", Result.of(rank < k, chance=chance, protocol=told)
