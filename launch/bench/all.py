"""Every benchmark, and what became of its goals: python -m launch.bench.all --quick

Each runs in a process of its own, one after the other; all that they print goes to
`--out` as JSON lines, and at the end a table says goal, figure and whether it is met.
`--quick` takes fewer rounds and smaller shapes: within ten minutes on two idle cores,
with wider ranges. A goal that is not met is no failure; a benchmark that breaks off or
runs out of time is, and the exit code is then 1. `--torch=PYTHON` gives the step its
PyTorch peer. The benchmarks `gpu` and `tpu` need what most machines lack and are apart.
"""

import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import NamedTuple

from absl import flags

from launch import command
from launch.bench import contrastive
from vlp_jax.errors import UserError


class Goal(NamedTuple):
  """A figure of the lines of a benchmark, and its limit.

  Attributes:
    what: for the table; where: {key: value} that the line has.
    key: of the figure; limit: a number, or the key that holds it.
    least: whether the figure is to be at least the limit; else at most.
  """

  what: str
  where: dict
  key: str
  limit: float | str
  least: bool = False


class Bench(NamedTuple):
  """What is asked of a benchmark, and the arguments of its quick form."""

  goals: tuple[Goal, ...]
  quick: tuple[str, ...] = ()


def _case(name: str) -> dict:
  return {"case": name}


def _loss(name: str, devices: int, candidates: int) -> dict:
  found = dict(loss=name, devices=devices, candidates=candidates)
  return _case("compiled") | found


def _growth(few: int, many: int) -> dict:
  found = dict(loss="mil_nce", candidates=5, devices=many)
  return _case("growth") | found | {"from": few}


LOSSES = (("mil_nce", 5), *((name, 1) for name in contrastive.LOSSES))
BENCHES = {
  "contrastive": Bench(
    (
      *(
        Goal(f"P1 memory of {name}, K={k}, MB", _loss(name, 1, k), "temp_mb", 128)
        for name, k in LOSSES
      ),
      *(
        Goal(f"P2 {what} of {name}, K={k}, MB", _loss(name, 64, k), key, limit)
        for name, k in LOSSES
        for what, key, limit in (
          ("traffic", "traffic_mb", "goal_mb"),
          ("memory", "temp_mb", 40),
        )
      ),
      Goal("P3 memory, 8 to 64", _growth(8, 64), "temp_times", "batch_times"),
      Goal("P3 memory, 64 to 256", _growth(64, 256), "temp_times", "batch_times"),
    ),
    ("--devices=1,8,64",),
  ),
  "batching": Bench(
    (
      Goal(
        "P5 ladder, times fewer", _case("ladder by count"), "times_fewer", 2.8, True
      ),
      Goal("P5 ladder, padding", _case("ladder by count"), "padding", 0.13),
      Goal("P5 packing, padding", _case("packing by count"), "padding", 0.03),
      Goal("P5 ladder, faster", _case("ladder by time"), "times_faster", 2.3, True),
      Goal("P5 packing, faster", _case("packing by time"), "times_faster", 2.3, True),
    ),
    ("--corpus=20000", "--rounds=2", "--step_tokens=2048", "--depth=1"),
  ),
  "step": Bench(
    (
      Goal("P4 tiny over linen", _case("tiny linen"), "times_faster", 1.3, True),
      Goal("P4 tiny over torch", _case("tiny torch"), "times_faster", 1.0, True),
      Goal("P4 base over torch", _case("base torch"), "times_faster", 1.1, True),
    ),
    ("--sizes=tiny", "--rounds=3", "--steps=4"),
  ),
  "compiling": Bench(
    (
      Goal("P6 24 over 6 layers", _case("depth 24 over 6 layers"), "ratio", 1.25),
      Goal("P6 second start, UNITER", _case("again uniter"), "ratio", 0.2),
      Goal("P6 second start, MIL-NCE", _case("again mil_nce"), "ratio", 0.2),
    ),
    ("--rounds=1",),
  ),
  "remat": Bench(
    (Goal("P7 full over none", _case("full"), "of_none", 1.0),), ("--rows=16",)
  ),
  "mlm_head": Bench(
    (Goal("P8 FLOPs over minimum", _case("base P=20"), "of_minimum", 1.03),),
    ("--max_masked=20",),
  ),
  "dropout": Bench(
    (
      Goal("P9 tiny", _case("tiny threefry2x32"), "cost", 0.05),
      Goal("P9 base", _case("base threefry2x32"), "cost", 0.05),
    ),
    ("--sizes=tiny", "--rounds=3"),
  ),
  "jpeg": Bench(
    (
      Goal("P10 JPEG", _case("photos prepared"), "times_faster", 2.0, True),
      Goal("P11 clips", _case("clips one an open"), "times_faster", 2.5, True),
      Goal("P11 three clips", _case("clips three an open"), "times_faster", 4.0, True),
    ),
    ("--rounds=2", "--items=16"),
  ),
  "input": Bench(
    (
      Goal("regions, examples/s", _case("regions"), "examples_per_s", 1000, True),
      Goal("P17 overlap", _case("overlap"), "step_over_sleep", 1.03),
    ),
    (
      *("--records=300", "--clips=20", "--seconds=2"),
      *("--overlap_steps=180", "--memory_steps=500"),
    ),
  ),
  "accumulation": Bench(
    (
      Goal("P18 time", _case("time tiny 4 microbatches"), "ratio", 1.03),
      Goal("P18 all-reduce", _case("traffic tiny 4 microbatches"), "of_params", 1.03),
    ),
    ("--rounds=2",),
  ),
  "kmeans": Bench(
    (
      Goal("P19 points/s over scikit-learn", {}, "speedup", 1.5, True),
      Goal("P19 inertia", {}, "inertia_ratio", 1.02),
    ),
    ("--points=20000", "--dim=64", "--rounds=1"),
  ),
  "cost": Bench(
    (
      Goal("P12 FLOPs, worst", _case("flops worst"), "off", 0.02),
      Goal("P12 memory on CPU, worst", _case("memory worst"), "off", 0.15),
      Goal("P12 memory on TPU, worst", _case("memory tpu"), "off", 0.15),
    ),
    ("--quick",),
  ),
  "checkpoints": Bench(
    (Goal("P20 longest save, ms", {}, "blocked_ms", "goal"),),
    ("--size=tiny", "--saves=3"),
  ),
}


def run(name: str, args: Iterable[str], timeout_s: float) -> tuple[list[dict], str]:
  """(lines of a benchmark, what went wrong or "")."""
  line = [sys.executable, "-m", f"launch.bench.{name}", *args]
  try:
    done = subprocess.run(line, capture_output=True, text=True, timeout=timeout_s)
  except subprocess.TimeoutExpired as error:
    printed = error.stdout or b""
    return _lines(printed.decode()), f"longer than {timeout_s:.0f} s"
  last = done.stderr.strip().splitlines()[-1:] if done.returncode else []
  why = f"exit code {done.returncode}: {' '.join(last)}" if done.returncode else ""
  return _lines(done.stdout), why


def _lines(printed: str) -> list[dict]:
  return [json.loads(x) for x in printed.splitlines() if x.startswith("{")]


def judge(goal: Goal, lines: Iterable[dict]) -> tuple[str, str, str]:
  """(limit, figure, "yes", "no" or why it is not known)."""
  sign = ">=" if goal.least else "<="
  for line in lines:
    if goal.key in line and goal.where.items() <= line.items():
      limit = line[goal.limit] if isinstance(goal.limit, str) else goal.limit
      figure = line[goal.key]
      met = figure >= limit if goal.least else figure <= limit
      return f"{sign} {limit:.4g}", f"{figure:.4g}", "yes" if met else "no"
  return f"{sign} {goal.limit}", "-", "not measured"


def table(rows: list[tuple[str, ...]]) -> str:
  """Columns as wide as their widest entry."""
  rows = [("benchmark", "goal", "limit", "figure", "met"), *rows]
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  pad = lambda row: "  ".join(x.ljust(n) for x, n in zip(row, widths, strict=True))
  return "\n".join(pad(row).rstrip() for row in rows)


def main():
  given = flags.FLAGS
  names = given.only or list(BENCHES)
  unknown = sorted(set(names) - set(BENCHES))
  if unknown:
    raise UserError(f"--only={unknown[0]}: known are {', '.join(BENCHES)}.")
  out, rows, failed = pathlib.Path(given.out), [], False
  out.parent.mkdir(parents=True, exist_ok=True)
  with out.open("w") as file:
    for i, name in enumerate(names, 1):
      bench, begin = BENCHES[name], time.monotonic()
      args = list(bench.quick if given.quick else ())
      if name == "step" and given.torch:
        args.append(f"--torch={given.torch}")
      print(f"[{i}/{len(names)}] {name} {' '.join(args)}", file=sys.stderr, flush=True)
      lines, why = run(name, args, given.timeout_s)
      file.writelines(json.dumps(line) + "\n" for line in lines)
      file.flush()
      took = f"{time.monotonic() - begin:.0f} s"
      print(f"    {why or 'done'}, {took}", file=sys.stderr, flush=True)
      rows += [(name, goal.what, *judge(goal, lines)) for goal in bench.goals]
      if why:
        failed = True
        rows.append((name, "runs", "", took, f"FAILED: {why}"))
  print(table(rows))
  if failed:
    sys.exit(1)


if __name__ == "__main__":  # flags here: tests import `judge` and `table`
  flags.DEFINE_bool("quick", False, "Fewer rounds, smaller shapes.")
  flags.DEFINE_string("out", "bench.jsonl", "JSON lines of all benchmarks.")
  flags.DEFINE_list("only", [], "Names of benchmarks; all when empty.")
  flags.DEFINE_string("torch", None, "A Python that has torch, for the step's peer.")
  flags.DEFINE_integer("timeout_s", 1_800, "Of one benchmark.")
  command.main(main)
