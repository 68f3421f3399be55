"""The least recompute whose step fits a memory, found by compiling ahead of time."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from vlp_jax.costs import aot
from vlp_jax.errors import UserError

POLICIES = ("none", "dots", "full")  # from the least recompute to the most


class Choice(NamedTuple):
  """What was chosen, and what was tried.

  Attributes:
    temporary: policy -> bytes of temporaries of its program.
    too_large: policy -> bytes in all, of those that no device here has memory for.
  """

  policy: str
  temporary: dict[str, int]
  too_large: dict[str, int]


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
  found, too_large = {}, {}
  for policy in policies:
    program, needed = aot.attempt(build(policy))
    if program is None:
      too_large[policy] = needed
      continue
    found[policy] = program.memory_analysis().temp_size_in_bytes
    if found[policy] <= limit_bytes:
      return Choice(policy, found, too_large)
  room = f"{limit_bytes / 1e9:.2f} GB" if found else "the device"
  sizes = found or too_large
  least = min(sizes, key=sizes.get)
  raise UserError(
    f"no rematerialisation fits {room}: {least!r} needs {sizes[least] / 1e9:.2f} GB. "
    "Use fewer rows a device, more microbatches or fsdp."
  )
