"""Batches of several data sets in fixed shares, one data set a batch.

  dict(task="text_regions", split="train", tokens=10_240, mixture={
    "coco": dict(dir="data/coco", rate=3),
    "vg": dict(dir="data/vg", rate=1)})

What stands beside `mixture` holds for every member that does not say otherwise; where
one input is laid over another, mixture=None takes it away. Whose
turn it is at batch t follows from t and the rates alone (`plan.Slots`): exact over 1000
batches, evenly spread, the same on every host. The position is t and those of the
members.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from data_pipelines import plan, shapes
from vlp_jax.errors import CheckpointError, UserError

KEY, RATE = "mixture", "rate"


def members(input: Mapping, what: str = "input") -> dict[str, tuple[dict, float]]:
  """name -> (input of the member, its rate).

  Args:
    input: with `mixture`, name -> keywords with `rate`, or a list of such keywords,
      which are named by their places.
  Raises: UserError if a member is no mapping, or a rate is missing or not positive.
  """
  shared = {k: v for k, v in input.items() if k != KEY}
  given, out = input[KEY], {}
  if not isinstance(given, Mapping):
    given = {str(k): member for k, member in enumerate(given)}
  for name, member in given.items():
    rate = member.get(RATE) if isinstance(member, Mapping) else None
    if not isinstance(rate, int | float) or not rate > 0:
      raise UserError(f"{what}.{KEY}.{name}.{RATE} is {rate!r}; it must be positive.")
    if KEY in member:
      raise UserError(f"{what}.{KEY}.{name}: a mixture of mixtures; list all members.")
    out[name] = shared | {k: v for k, v in member.items() if k != RATE}, float(rate)
  if not out:
    raise UserError(f"{what}.{KEY} is empty.")
  return out


def build(input: Mapping, make: Callable[[dict], Iterator]) -> "Mixture":
  """The mixture of `input`; `make` gives the batches of one member's input."""
  found = members(input)
  given = {name: make(one) for name, (one, _) in found.items()}
  return Mixture(given, {name: rate for name, (_, rate) in found.items()})


class Mixture:
  """An endless iterator over those of several sources, each in its share.

  Args:
    sources: name -> iterator with `get_state` and `set_state`.
    rates: name -> positive number; they need not sum to one.
  """

  def __init__(self, sources: Mapping[str, Iterator], rates: Mapping[str, float]):
    self.sources, self._names, self._step = dict(sources), sorted(sources), 0
    shares = [rates[name] for name in self._names]
    self._slots = plan.Slots(shares)
    told = json.dumps([self._names, self._slots.count.tolist()])
    self._order = f"{plan.VERSION}-{hashlib.sha256(told.encode()).hexdigest()[:16]}"

  @property
  def num_examples(self) -> int:
    return sum(source.num_examples for source in self.sources.values())

  @property
  def rungs(self) -> tuple:
    """All shapes that occur."""
    return tuple(sorted({r for s in self.sources.values() for r in s.rungs}))

  def shapes(self) -> list[shapes.Shapes]:
    """Of all batches that may come, this host's rows."""
    return [one for s in self.sources.values() for one in s.shapes()]

  @property
  def bad(self) -> dict:
    """(member, record) -> where and why, of what was lost so far."""
    found = {name: source.bad for name, source in self.sources.items()}
    return {(name, k): why for name, bad in found.items() for k, why in bad.items()}

  def __iter__(self) -> "Mixture":
    return self

  def __next__(self) -> dict[str, np.ndarray]:
    member, _ = self._slots.task(self._step)
    batch = next(self.sources[self._names[member]])
    self._step += 1
    return batch

  def get_state(self) -> dict:
    """JSON-able; that of each member, and under 100 bytes more."""
    own = {name: self.sources[name].get_state() for name in self._names}
    return {"step": self._step, "plan": self._order, "members": own}

  def set_state(self, state: Mapping) -> None:
    """Goes on behind the batch of that state.

    Raises: CheckpointError if members, rates, or a member's data differ.
    """
    if state.get("plan") != self._order:
      raise CheckpointError(
        f"the data position of the checkpoint has plan {state.get('plan')!r}, the "
        f"mixture of {', '.join(self._names)} has {self._order!r}: members or rates "
        "changed."
      )
    for name in self._names:
      self.sources[name].set_state(state["members"][name])
    self._step = int(state["step"])
