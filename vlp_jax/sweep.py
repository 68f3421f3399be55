"""A grid of runs of one config, and what they say together.

Every cell of the grid is a run of its own, in a directory named by its values; a cell
that is done is not done again, one that was stopped goes on. Means are taken over some
axes one after the other, as over the held-out speakers of each seed and then over the
seeds: the standard error is that of the last one. Differences are paired: cell against
cell with the same values on all other axes.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vlp_jax import settings, workdir
from vlp_jax.errors import UserError
from vlp_jax.metrics import Result
from vlp_jax.resolve import nearest

Cell = dict[str, str]  # axis -> value


Found = Sequence[tuple[Cell, Mapping[str, Result]]]


class Axis(NamedTuple):
  """`seed=0,1,2`: a name and its values, at least one."""

  name: str
  values: tuple[str, ...]


class Mean(NamedTuple):
  """A mean over axes.

  Attributes:
    value: the mean. error: its standard error over the last axis, nan for one value.
    values: those of the last axis, each a mean over the axes before it.
  """

  value: float
  error: float
  values: tuple[float, ...]


def parse(text: str) -> Axis:
  """The axis of `name=a,b,c`. Raises: UserError for another form, or a value twice."""
  name, _, values = text.partition("=")
  found = tuple(v.strip() for v in values.split(",") if v.strip())
  if not re.fullmatch(r"\w[\w.]*", name) or not found or len({*found}) < len(found):
    raise UserError(f"--over {text!r} is not NAME=VALUE,VALUE,... of distinct values.")
  return Axis(name, found)


def cells(axes: Sequence[Axis]) -> list[Cell]:
  """All combinations; the last axis changes fastest."""
  names = [a.name for a in axes]
  if len({*names}) < len(names):
    raise UserError(f"--over: an axis stands twice in {', '.join(names)}.")
  return [
    dict(zip(names, values, strict=True))
    for values in itertools.product(*(a.values for a in axes))
  ]


def place(cell: Cell) -> str:
  """The directory of a cell."""
  text = ",".join(f"{k.removeprefix('config.')}={v}" for k, v in cell.items())
  return re.sub(r"[^\w.,=+-]", "_", text) or "run"


def run(
  config_of: Callable[[Cell], Mapping[str, Any]],
  axes: Sequence[Axis],
  at,
  *,
  train: Callable[[Mapping[str, Any], str], Mapping[str, Result]],
  say: Callable[[str], None] = print,
) -> list[tuple[Cell, dict[str, Result]]]:
  """Runs every cell; returns (cell, results) of all.

  Args:
    config_of: of a cell. All are made before the first runs, so that a mistake shows
      at once.
    at: directory of the sweep. train: (config, workdir) -> results.
  """
  todo = [(cell, config_of(cell)) for cell in cells(axes)]
  for _, config in todo:
    settings.load(config)
  found = []
  for i, (cell, config) in enumerate(todo, 1):
    path, name = workdir.root(at) / place(cell), place(cell)
    results = _done(path, config)
    say(f"[{i}/{len(todo)}] {name}{': done' if results else ''}")
    found.append((cell, results or dict(train(config, str(path)))))
  return found


def _done(path, config) -> dict[str, Result]:
  """Results of a finished run of the same config, {} when there is none."""
  known = workdir.read_config(path)
  own = json.loads(workdir.dumps(settings.plain(config)))
  return workdir.read_results(path) if known == own else {}


def mean(values: Mapping[tuple[str, ...], float]) -> Mean:
  """The mean of values by their places on the axes of the mean, the last one last.

  A place is a tuple of values of these axes.
  """
  while True:
    depth = len(next(iter(values)))
    if depth <= 1:
      break
    by: dict[tuple[str, ...], list[float]] = {}
    for where, value in values.items():
      by.setdefault(where[1:], []).append(value)
    values = {k: float(np.mean(v)) for k, v in by.items()}
  found = np.array(list(values.values()))
  error = found.std(ddof=1) / math.sqrt(len(found)) if len(found) > 1 else math.nan
  return Mean(float(found.mean()), float(error), tuple(map(float, found)))


def means(
  found: Found,
  metric: str,
  over: Sequence[str] = (),
) -> Iterator[tuple[Cell, Mean]]:
  """(the other axes' values, mean of the metric over the axes `over`)."""
  yield from _grouped(((c, r[metric].value) for c, r in found if metric in r), over)


def differences(
  found: Found,
  metric: str,
  axis: str,
  over: Sequence[str] = (),
) -> Iterator[tuple[Cell, Mean]]:
  """Like `means`, of the differences to the first value of `axis`, paired."""
  first = found[0][0][axis]
  rest = lambda cell: tuple(v for k, v in cell.items() if k != axis)
  base = {rest(c): r[metric].value for c, r in found if c[axis] == first}
  pairs = (
    (c, r[metric].value - base[rest(c)])
    for c, r in found
    if c[axis] != first and metric in r and rest(c) in base
  )
  yield from _grouped(pairs, [name for name in over if name != axis])


def gaps(
  found: Found, metric: str, other: str, over: Sequence[str] = ()
) -> Iterator[tuple[Cell, Mean]]:
  """Like `means`, of the differences of two metrics of one run."""
  both = ((c, r[metric].value - r[other].value) for c, r in found)
  yield from _grouped(both, over)


def _grouped(values, over):
  groups: dict[tuple, tuple[Cell, dict]] = {}
  for cell, value in values:
    own = {k: v for k, v in cell.items() if k not in over}
    _, members = groups.setdefault(tuple(own.items()), (own, {}))
    members[tuple(cell[name] for name in over)] = value
  for own, members in groups.values():
    yield own, mean(members)


def metrics(found: Found, wanted: str = "") -> list[str]:
  """Names of metrics that all cells have and the regular expression finds, in order.

  Raises: UserError when it finds none.
  """
  names = [k for k in found[0][1] if all(k in r for _, r in found)]
  some = [k for k in names if re.search(wanted, k)]
  if not some:
    raise UserError(f"--metric {wanted!r} finds none of {', '.join(names)}.")
  return some


def summary(
  found: Found,
  names: Sequence[str],
  *,
  over: Sequence[str] = (),
  compare: str = "",
  against: Mapping[str, str] | None = None,
) -> dict[str, Result]:
  """All means, differences along the axis `compare`, and of the metrics of `against`
  {metric: the one to subtract}, as results.

  Raises: UserError where a metric of `against` is missing.
  `n` counts the values of the mean, `ci` is 1.96 standard errors, the protocol lists
  the values.
  """
  out = {}
  for metric in names:
    chance = found[0][1][metric].chance
    for cell, m in means(found, metric, over):
      out[_title(metric, place(cell) if cell else "")] = _result(m, chance, over)
    if compare:
      for cell, m in differences(found, metric, compare, over):
        versus = f"{place(cell)} minus {found[0][0][compare]}"
        out[_title(metric, versus)] = _result(m, 0.0, over)
  for metric, other in (against or {}).items():
    for name in (metric, other):
      if not all(name in r for _, r in found):
        raise UserError(f"--against: no metric {name!r}.{nearest(name, found[0][1])}")
    for cell, m in gaps(found, metric, other, over):
      versus = f"{metric} minus {other}"
      out[_title(versus, place(cell) if cell else "")] = _result(m, 0.0, over)
  return out


def _title(metric, what):
  return f"{what}: {metric}" if what else metric


def _result(m, chance, over):
  told = f"mean over {' and then '.join(over)}: " if over else ""
  listed = ", ".join(f"{v:.4g}" for v in m.values)
  return Result(m.value, chance, len(m.values), 1.96 * m.error, f"{told}{listed}")
