"""Formulas of launch.cost against compiled programs: python -m launch.bench.cost

One JSON line a config, in its `:runlocal` or another small form, and a figure: what is
estimated, what is compiled for one CPU device, and compiled over estimated.

  memory   temporaries of the training step: activations and gradients; goal 15 %
  flops    matmuls and convolutions of the forward pass of its loss; goal 2 %

and a line "worst" of each. `COMPARED` has a config a family or more. Stacks of at most
four layers are laid out one by one, and then compilers keep more than a loop does, so
depth is six.

Lines "memory tpu" are `launch.bench.tpu`'s figures for all configs at full size, as
`costs.memory` records them: nothing is compiled for them here.
"""

import os

from absl import flags

from launch import command
from launch.bench import timing

GOALS = {"memory": 0.15, "flops": 0.02}
# Config -> (fields of its model, sizes by letter). A config a family.
COMPARED = {
  "configs/audio_visual/avts.py:runlocal": ({}, {}),
  "configs/audio_visual/l3.py:runlocal": ({}, {}),
  "configs/brave/pretrain.py:runlocal": ({}, {}),
  "configs/captioning/youcook2.py:runlocal": (dict(depth=6, encoder_depth=6), {}),
  "configs/cbt/pretrain.py:runlocal": (dict(depth=6), dict(B=32)),
  "configs/howto100m/pretrain.py:runlocal": ({}, dict(B=64)),
  "configs/mmv/deflate.py:runlocal": ({}, {}),
  "configs/mmv/disjoint.py:runlocal": ({}, {}),
  "configs/quickstart.py": ({}, {}),
  "configs/self_supervised/byol.py:runlocal": ({}, {}),
  "configs/self_supervised/moco.py:runlocal": ({}, {}),
  "configs/self_supervised/simclr.py:runlocal": ({}, {}),
  "configs/speech/digits.py:runlocal": ({}, {}),
  "configs/videobert/pretrain.py:runlocal": (dict(depth=6), {}),
  "configs/xdc/pretrain.py:runlocal": ({}, {}),
}
# Among them what is hardest to foresee, a network that runs forwards only.
QUICK = ("configs/howto100m", "configs/mmv/deflate", "configs/videobert")
VOCAB_SIZE = 200
# Of the machine code, not of the plan of memory.
OPTIONS = {"xla_backend_optimization_level": 0}


def built(path: str):
  """(job, task) of an entry, on the first device."""
  import jax

  from vlp_jax.costs import job

  fields, sizes = COMPARED[path]
  config = command.config_of(path).to_dict()
  config["model"] |= fields
  here = jax.local_devices(backend="cpu")[:1]
  made = job.build(config, here, vocab_size=VOCAB_SIZE, sizes=sizes)
  return made, next(iter(made.tasks))


def memory(job, task: str) -> tuple[float, float]:
  """Bytes of temporaries of a training step: estimated, compiled."""
  from vlp_jax.costs import memory as formulas

  compiled = job.lower(task).compile(compiler_options=OPTIONS)
  peak = formulas.activations(job, task, platform="cpu")[0]
  return peak + formulas.gradients(job), compiled.memory_analysis().temp_size_in_bytes


def flops(job, task: str) -> tuple[float, float]:
  """FLOPs of a forward pass: estimated, compiled."""
  import jax

  from vlp_jax.costs import dots, families

  one = job.tasks[task]
  parts = families.of(job.model).forward(job.model, one.batch, None, one.place)
  loss, args = job.loss(task)
  compiled = jax.jit(loss).lower(*args).compile(compiler_options=OPTIONS)
  return sum(parts.values()), dots.executed(compiled.as_text())


def facts(kind: str, estimated: float, compiled: float) -> dict:
  """What is printed of a pair of figures."""
  ratio = compiled / estimated
  off = abs(1 / ratio - 1)  # of the compiled one
  given = dict(estimated=estimated, compiled=compiled, ratio=ratio, off=off)
  return given | {"goal": GOALS[kind], "meets_goal": off <= GOALS[kind]}


def worst(kind: str, lines: list[dict]) -> dict:
  """The line of all configs."""
  ratios, most = [x["ratio"] for x in lines], max(lines, key=lambda x: x["off"])
  given = {"range": [min(ratios), max(ratios)], "off": most["off"], "at": most["case"]}
  missed = sum(not x["meets_goal"] for x in lines)
  given |= {"configs": len(lines), "missed": missed, "goal": GOALS[kind]}
  return given | {"meets_goal": not missed}


def recorded() -> dict:
  """Compiled over estimated on TPU, by the notes of `launch.cost`."""
  from vlp_jax.costs import memory as formulas

  ranges = {"convolutions": formulas.TPU_CONVOLUTIONS, "others": formulas.TPU_OTHERS}
  off = max(abs(1 / ratio - 1) for pair in ranges.values() for ratio in pair)
  given = {k: list(pair) for k, pair in ranges.items()}
  given |= {"recorded": True, "off": off, "goal": GOALS["memory"]}
  return given | {"meets_goal": off <= GOALS["memory"]}


def main():
  os.environ["JAX_PLATFORMS"] = "cpu"
  measures, found = {"memory": memory, "flops": flops}, {"memory": [], "flops": []}
  paths = list(COMPARED)
  if flags.FLAGS.quick:
    paths = [p for p in paths if p.startswith(QUICK)]
  for path in paths:
    job, task = built(path)
    for kind, measure in measures.items():
      given = facts(kind, *measure(job, task))
      found[kind].append(timing.emit("cost", path, kind=kind, task=task, **given))
  for kind, lines in found.items():
    timing.emit("cost", f"{kind} worst", **worst(kind, lines))
  timing.emit("cost", "memory tpu", **recorded())


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_bool("quick", False, "Three small networks.")
  command.main(main)
