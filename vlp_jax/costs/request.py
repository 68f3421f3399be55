"""One question of `launch.cost` and its answer."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax

from vlp_jax import settings as settings_lib
from vlp_jax.costs import chips, families, inputs, memory, remat, report, topology
from vlp_jax.costs import job as job_lib
from vlp_jax.errors import UserError

# Least numbers, by flag. A vocabulary has special ids; a sequence of words and regions
# [CLS], [SEP] and one region.
LEAST = {
  "chips": 1,
  "vocab_size": 8,
  "rows": 1,
  "length": 3,
  "words": 1,
  "regions": 1,
  "frames": 1,
  "size": 1,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
  """What is asked; None leaves a thing to the config or to a default.

  Attributes:
    chip, chips: for the formulas; of a topology they follow from its name.
    topology: also compile one task's step for this TPU slice.
    task: only this one.
    useful: mean of real tokens a row.
    sizes: by letter, see `inputs.batch`.
    compile: also compile one device's share of the step on CPU.
    remat_gb: also find the least recompute whose temporaries fit (on the topology, or
      on CPU without one).

  Raises: UserError for a number that no answer has.
  """

  chip: str | None = None
  chips: int | None = None
  topology: str | None = None
  task: str | None = None
  useful: float | None = None
  vocab_size: int | None = None
  compile: bool = False
  remat_gb: float | None = None
  sizes: Mapping[str, int | None] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    given = {"chips": self.chips, "vocab_size": self.vocab_size}
    given |= {inputs.FLAGS[letter]: n for letter, n in self.sizes.items()}
    for flag, n in given.items():
      if n is not None and n < LEAST[flag]:
        raise UserError(f"--{flag} is {n}; it must be at least {LEAST[flag]}.")
    for flag, x in (("useful", self.useful), ("remat_gb", self.remat_gb)):
      if x is not None and not 0 < x < math.inf:
        raise UserError(f"--{flag} is {x}; it must be a number above 0.")

  @property
  def place(self) -> tuple[str, int]:
    """(chip, number of chips)."""
    if self.topology is None:
      return self.chip or "cpu", 1 if self.chips is None else self.chips
    chip, count = topology.parse(self.topology)
    for flag, given, want in (("chip", self.chip, chip), ("chips", self.chips, count)):
      if given not in (None, want):
        raise UserError(
          f"--{flag}={given} and --topology {self.topology}, which has {want}: leave "
          f"--{flag} out."
        )
    return chip, count


def answer(config: Mapping[str, Any], asked: Request) -> dict[str, Any]:
  """The report; with `topology`, "tpu" in it; with `compile`, "compiled"; with
  `remat_gb`, "remat".
  """
  name, count = asked.place
  chips.chip(name)
  make = functools.partial(
    job_lib.build, config, vocab_size=asked.vocab_size, task=asked.task
  )
  real = topology.devices(asked.topology) if asked.topology else None
  lengths = {} if asked.useful is None else {"tokens": asked.useful}
  try:
    job = make(chips.devices(count), sizes=asked.sizes, fewer=real is None)
    for task in job.tasks.values() if lengths else ():
      _check_useful(asked.useful, task)
    out = report.of(job, name, lengths=lengths)
  except (TypeError, ValueError) as error:
    sizes = {f"--{inputs.FLAGS[k]}={n}" for k, n in asked.sizes.items() if n}
    if not sizes:
      raise
    reason = str(error).partition("\n")[0]
    raise UserError(
      f"{', '.join(sorted(sizes))}: not with this model: {reason}"
    ) from error
  most = max(out["tasks"], key=lambda t: out["tasks"][t]["bytes_activations"])
  if real is not None:
    compiling = make(real, sizes=asked.sizes)
    out["tpu"] = topology.compile_step(compiling, most, name)
  if asked.compile or (asked.remat_gb is not None and real is None):
    # One device's rows on one device: the same program but for collectives.
    single = settings_lib.plain(config) | {"mesh": {}}
    rows = job.tasks[most].rows // job.shards
    alone = dict(asked.sizes) | {"B": rows}
    here = jax.local_devices(backend="cpu")[:1]
    compiling = job_lib.build(
      single, here, vocab_size=asked.vocab_size, task=most, sizes=alone
    )
  if asked.compile:
    found = compiling.lower(most).compile().memory_analysis()
    temporary = found.temp_size_in_bytes
    out["compiled"] = {
      "task": most,
      "bytes_arguments": found.argument_size_in_bytes,
      "bytes_temporary": temporary,
      "estimated": round(out["bytes_activations"] + memory.gradients(compiling)),
    }
  if asked.remat_gb is not None:
    out["remat"] = _remat(compiling, most, asked.remat_gb)
  return out


def _check_useful(useful, task) -> None:
  """Raises UserError unless a row of the task has room for so many tokens."""
  room = families.places(task.batch)
  if "fuse_index" in task.batch:  # text and regions, compacted
    room = min(room, task.batch["fuse_index"].shape[1])
  if not room:
    raise UserError(f"--useful: rows of task {task.name} have no tokens; leave it out.")
  if useful > room:
    raise UserError(
      f"--useful is {useful:g}; a row of task {task.name} has {room} tokens with its "
      f"padding, so give at most {room} (--task gives one task alone)."
    )


def _remat(job, task, gigabytes) -> dict[str, Any]:
  if not hasattr(job.model, "remat"):
    raise UserError(
      f"--remat_gb: model {job.settings.model['name']!r} has no attribute remat."
    )
  build = lambda policy: job.lower(task, model=job.model.clone(remat=policy))
  return remat.choose(build, gigabytes * 1e9)._asdict() | {"task": task}
