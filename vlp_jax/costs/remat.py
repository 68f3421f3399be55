"""The least recompute whose step fits a memory, found by compiling ahead of time."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from vlp_jax.errors import UserError

POLICIES = ("none", "dots", "full")  # from the least recompute to the most


class Choice(NamedTuple):
  """The policy, and bytes of temporaries of each one that was compiled."""

  policy: str
  temporary: dict[str, int]


def choose(
  build: Callable[[str], jax.stages.Lowered],
  limit_bytes: float,
  *,
  policies: tuple[str, ...] = POLICIES,
) -> Choice:
  """The first policy whose compiled program needs at most `limit_bytes`.

  Args:
    build: policy -> the lowered step, for the devices that will run it
      (`Job.lower(task, model=model.clone(remat=policy))`).
    limit_bytes: for temporaries (activations, gradients) of one device, that is
      without the state, which is an argument of the step.
  Raises: UserError when even the last one needs more.
  """
  found = {}
  for policy in policies:
    found[policy] = build(policy).compile().memory_analysis().temp_size_in_bytes
    if found[policy] <= limit_bytes:
      return Choice(policy, found)
  least = min(found, key=found.get)
  raise UserError(
    f"no rematerialisation fits {limit_bytes / 1e9:.2f} GB: {least!r} needs "
    f"{found[least] / 1e9:.2f} GB. Use fewer rows a device, more microbatches or fsdp."
  )
