"""Memory of recomputing: python -m launch.bench.remat

The training step of UNITER-base (matching, 64 rows of 15 words and 39 regions, AdamW)
is compiled ahead for one CPU device under each policy of `layers.transformer.REMAT`;
nothing is run. One JSON line a policy with the temporary memory that the compiler plans
for activations and gradients, and one for each of `--limits_gb` with the policy that
`costs.remat.choose` takes for it, or why there is none.
"""

import dataclasses

from absl import flags

from launch import command
from launch.bench import timing
from vlp_jax.errors import UserError


def lowered(policy: str, size):
  """The step under a policy, for `costs.remat.choose`."""
  from launch.bench import workload

  net = workload.model(size, remat=policy)
  return workload.training(size, net=net).lowered()


def facts(size, policies: tuple[str, ...]) -> dict[str, int]:
  """policy -> bytes of temporaries of the compiled step."""
  temporary = lambda p: lowered(p, size).compile().memory_analysis().temp_size_in_bytes
  return {policy: temporary(policy) for policy in policies}


def pick(found: dict[str, int], limit_gb: float) -> str:
  """What `costs.remat.choose` takes, given the figures that it would compile for."""
  from vlp_jax.costs import remat

  return remat.choose(lambda policy: _Known(found[policy]), limit_gb * 1e9).policy


def chosen(found: dict[str, int], limit_gb: float) -> dict:
  """The choice for the report, or why there is none."""
  try:
    policy = pick(found, limit_gb)
  except UserError as error:
    return {"policy": None, "why": str(error)}
  return {"policy": policy, "temp_mb": found[policy] / 1e6}


@dataclasses.dataclass(frozen=True)
class _Known:
  """A program that was compiled before: it answers for its memory alone."""

  temp_size_in_bytes: int

  def compile(self):
    return self

  def memory_analysis(self):
    return self


def main():
  from launch.bench import workload
  from vlp_jax.costs import remat

  given = flags.FLAGS
  timing.one_core()
  size = dataclasses.replace(workload.SIZES[given.size], rows=given.rows)
  found = facts(size, remat.POLICIES)
  for policy, temporary in found.items():
    timing.emit(
      "remat",
      policy,
      rows=given.rows,
      temp_mb=temporary / 1e6,
      of_none=temporary / found["none"],
    )
  for limit in map(float, given.limits_gb):
    timing.emit("remat", f"choose {limit} GB", rows=given.rows, **chosen(found, limit))


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_enum("size", "base", ("mini", "tiny", "base"), "Of the network.")
  flags.DEFINE_integer("rows", 64, "Of the batch.")
  flags.DEFINE_list("limits_gb", ["8", "4", "2", "1"], "Memories to choose for.")
  command.main(main)
