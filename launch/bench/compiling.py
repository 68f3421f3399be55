"""Trace and compile time, and a second start: python -m launch.bench.compiling

  depth   seconds from the call of jit to a compiled step of UNITER 768 wide, and size
          of its program, 24 layers over 6: the layers are scanned; goal 1.25
  again   the same in a second process that finds the persistent cache of
          `launch.command`, over the first process; goal 0.2

Each time is of a process of its own, with an empty cache directory where it is the
first, in alternating rounds; figures are medians and ranges of ratios. By processor
time of one core, which the load of the machine does not change.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

from absl import flags

from launch import command
from launch.bench import timing

GOALS = {"depth": 1.25, "again": 0.2}
CASES = ("uniter", "mil_nce")


def training(case: str, depth: int, *, small: bool = False):
  """(jitted step, arguments maker) of UNITER at that depth, or of MIL-NCE with S3D."""
  import dataclasses

  from launch.bench import workload

  if case == "uniter":
    size = workload.SIZES["mini" if small else "base"]
    return workload.training(dataclasses.replace(size, depth=depth))
  return workload.clips()


def facts(depth: int, *, small: bool = False) -> dict[str, int]:
  """Sizes of the program that the compiler is given: lines of StableHLO."""
  text = training("uniter", depth, small=small).lowered().as_text()
  return {"lines": text.count("\n")}


def once(case: str, depth: int) -> dict:
  """Traces and compiles here, or finds it compiled; processor seconds."""
  made = training(case, depth)
  begin = time.process_time()
  lowered = made.lowered()
  traced = time.process_time() - begin
  lowered.compile()
  lines = lowered.as_text().count("\n")
  return {"s": time.process_time() - begin, "trace_s": traced, "lines": lines}


def child(case: str, depth: int, cache: str) -> dict:
  """`once` in a process of its own, with that cache directory."""
  env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
  args = [f"--here={case}", f"--depth={depth}"]
  done = subprocess.run(
    [sys.executable, "-m", __spec__.name, *args],
    env=env,
    check=True,
    capture_output=True,
    text=True,
  )
  return json.loads(done.stdout.splitlines()[-1])


def ratios(bench: str, case: str, found: list[tuple[dict, dict]], **more) -> None:
  """A line with the second of each pair over the first."""
  of = [b["s"] / a["s"] for a, b in found]
  middle = statistics.median(of)
  timing.emit(
    "compiling",
    f"{bench} {case}",
    first_s=statistics.median(a["s"] for a, _ in found),
    second_s=statistics.median(b["s"] for _, b in found),
    ratio=middle,
    range=[round(min(of), 3), round(max(of), 3)],
    goal=GOALS[bench],
    met=middle <= GOALS[bench],
    **more,
  )


def main():
  given, _ = flags.FLAGS, timing.one_core()
  if given.here:
    print(json.dumps(once(given.here, given.depth)))
    return
  deep = []
  for _ in range(given.rounds if "depth" in given.cases else 0):
    pair = []
    for depth in (6, 24):
      with tempfile.TemporaryDirectory() as cache:
        pair.append(child("uniter", depth, cache))
    deep.append(pair)
  if deep:
    lines = deep[0][1]["lines"] / deep[0][0]["lines"]
    ratios("depth", "24 over 6 layers", deep, program_lines=lines)
  for case in CASES if "again" in given.cases else ():
    pairs = []
    for _ in range(given.rounds):
      with tempfile.TemporaryDirectory() as cache:
        pairs.append([child(case, 12, cache) for _ in range(2)])
    ratios("again", case, pairs)


if __name__ == "__main__":  # here, so that two benchmarks can be imported together
  flags.DEFINE_multi_enum("cases", tuple(GOALS), tuple(GOALS), "What is measured.")
  flags.DEFINE_integer("rounds", 3, "Pairs of processes a case.")
  flags.DEFINE_enum("here", "", ("", *CASES), "Compile this one, here.")
  flags.DEFINE_integer("depth", 12, "Layers, with --here.")
  command.main(main)
