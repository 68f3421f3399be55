"""Finished runs beside one another: their results, curves, and what was set otherwise.

A metric of several runs stands in one row, so that a reader sees at once which run is
better and by how much of its interval; only the settings that differ are shown.
"""

import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from vlp_jax import jsonl, plots, workdir
from vlp_jax import report_style as style
from vlp_jax.metrics import Result

ABSENT = "-"


class Run(NamedTuple):
  """What a run left: see `vlp_jax.workdir`."""

  name: str
  config: Mapping[str, Any]
  results: Mapping[str, Result]
  metrics: Sequence[Mapping[str, Any]]

  @classmethod
  def read(cls, path: str | os.PathLike, name: str) -> "Run":
    """The run at a workdir; results and curves are empty where there are none."""
    rows = jsonl.read(workdir.root(path) / "metrics.jsonl")
    return cls(name, workdir.read_config(path), workdir.read_results(path), rows)


def names(paths: Sequence[str]) -> list[str]:
  """Short names: the ends of the paths that tell them apart."""
  parts = [os.path.normpath(p).split(os.sep) for p in paths]
  for depth in range(1, max(map(len, parts)) + 1):
    found = ["/".join(p[-depth:]) for p in parts]
    if len(set(found)) == len(found):
      return found
  return list(paths)


def settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
  """{dotted key: its value in each run} of the settings that are not all equal."""
  flat = [_flat(r.config) for r in runs]
  keys = dict.fromkeys(k for f in flat for k in f)
  rows = {k: [f.get(k, ABSENT) for f in flat] for k in keys}
  return {k: row for k, row in rows.items() if any(x != row[0] for x in row)}


def shared(runs: Sequence[Run], wanted: re.Pattern) -> list[str]:
  """Metrics that some run has and `wanted` finds, in the order of the runs."""
  found = dict.fromkeys(k for r in runs for k in r.results)
  return [k for k in found if wanted.search(k)]


def table(runs: Sequence[Run], wanted: re.Pattern) -> str:
  """Results and differing settings as text; chance in the last column."""
  from rich.console import Console
  from rich.table import Table

  out = Table("", *(r.name for r in runs), "chance", box=None, pad_edge=False)
  for k in shared(runs, wanted):
    own = [r.results.get(k) for r in runs]
    chance = next(r.chance for r in own if r is not None)
    told = [_value(k, r) for r in own]
    out.add_row(k, *told, style.number(k, chance))
  steps = [str(r.metrics[-1]["step"]) if r.metrics else ABSENT for r in runs]
  out.add_row("steps", *steps, "")
  differ = Table("", *(r.name for r in runs), box=None, pad_edge=False)
  for k, values in settings(runs).items():
    differ.add_row(k, *map(str, values))
  file = io.StringIO()
  console = Console(file=file, width=max(100, 40 + 22 * len(runs)), markup=False)
  console.print(out)
  if differ.row_count:
    console.print("\nSet otherwise:")
    console.print(differ)
  return file.getvalue().rstrip()


def page(runs: Sequence[Run], wanted: re.Pattern) -> dict[str, Any]:
  """What `report.write` takes: one table, curves over one another, the settings.

  Raises: ImportError without matplotlib.
  """
  first, *others = runs
  results = {}
  for k in shared(runs, wanted):
    r = first.results.get(k)
    entry = r._asdict() if r else {"value": math.nan}
    has = [o for o in others if k in o.results]
    results[k] = entry | {"baselines": {o.name: o.results[k].value for o in has}}
  figures = []
  for k in dict.fromkeys(k for r in runs for row in r.metrics for k in row):
    lines = {r.name: _curve(r, k) for r in runs}
    lines = {name: line for name, line in lines.items() if len(line[0]) > 1}
    if lines and k != "step" and wanted.search(k):
      figures.append((f"{k} over steps", plots.overlay(lines, label=f"{k} over steps")))
  note = f"This run is {first.name}; beside it {', '.join(o.name for o in others)}."
  return dict(
    results=results,
    metrics=[],
    timing=[],
    figures=figures,
    notes=note if others else f"The run {first.name}.",
    config=settings(runs) if others else first.config,
  )


def _value(name, r):
  if r is None:
    return ABSENT
  value = style.number(name, r.value)
  return f"{value} ± {style.number(name, r.ci)}" if r.ci == r.ci else value


def _curve(run, key):
  rows = [row for row in run.metrics if isinstance(row.get(key), (int, float))]
  return [row["step"] for row in rows], [row[key] for row in rows]


def _flat(tree, at=""):
  if not isinstance(tree, Mapping) or not tree:
    return {at: tree}
  return {
    k: x
    for key, sub in tree.items()
    for k, x in _flat(sub, f"{at}.{key}" if at else key).items()
  }
