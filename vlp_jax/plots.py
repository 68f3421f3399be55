"""Curves as inline SVG, without pyplot: `currentColor` for all that is not data.

The page around decides on ink and paper, so one figure serves light and dark.
"""

import contextlib
import html
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

INK = "#010203"  # drawn with this, replaced by currentColor
MOST = 1000  # values of a curve
DATA = "#3b82d6"  # 4:1 against white and against the dark ground
LINES = (DATA, "#d6703b", "#2f9e6e", "#a05ad0")
STYLE = {
  "svg.fonttype": "none",  # text stays text, in the font of the page
  "font.size": 8,
  "font.family": "sans-serif",
  "axes.edgecolor": INK,
  "axes.labelcolor": INK,
  "xtick.color": INK,
  "ytick.color": INK,
  "text.color": INK,
  "axes.spines.top": False,
  "axes.spines.right": False,
  "axes.linewidth": 0.6,
  "axes.formatter.useoffset": False,
}


def curve(
  steps: Sequence[int],
  values: Sequence[float | None],
  *,
  label: str,
  chance: float | None = None,
  log: bool = False,
) -> str:
  """One metric over steps as an `<svg>` element; a running median over the raw values.

  Of more than 1,000 values, 1,000 evenly spaced ones are drawn.

  Args:
    steps, values: of equal length; None (a value that was not finite) leaves a gap.
    label: read out to those who do not see the picture.
    chance: drawn as a dashed line.
    log: logarithmic values, where all are positive.
  Raises: ImportError without matplotlib.
  """
  steps = np.asarray(steps, float)
  values = np.array([np.nan if v is None else v for v in values], float)
  if len(steps) > MOST:
    pick = np.linspace(0, len(steps) - 1, MOST).round().astype(int)
    steps, values = steps[pick], values[pick]
  with _axes(label) as (axes, done):
    many = len(values) > 40
    marker = "o" if len(values) <= 15 else None
    axes.plot(
      steps, values, color=DATA, lw=1.4, alpha=0.35 if many else 1, marker=marker, ms=3
    )
    if many:
      axes.plot(steps, running_median(values, len(values) // 20), color=DATA, lw=1.6)
    if chance is not None and np.isfinite(chance):
      axes.axhline(chance, color=INK, lw=0.8, ls=(0, (4, 3)), alpha=0.7)
    finite = values[np.isfinite(values)]
    if log and len(finite) and finite.min() > 0 and finite.max() > 20 * finite.min():
      axes.set_yscale("log")
    axes.xaxis.set_major_locator(_ticker().MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: thousands(x))
  return done[0]


def spread(lines: Mapping[str, Mapping[str, Sequence[float]]], *, label: str) -> str:
  """Runs as points over the values of one setting, and lines through their means.

  Args:
    lines: name of a line -> {value of the setting: numbers of its runs}. Where all the
      values are numbers they are placed as such.
    label: read out to those who do not see the picture.
  Raises: ImportError without matplotlib.
  """
  ticks = list(dict.fromkeys(x for line in lines.values() for x in line))
  try:
    at = {x: float(x) for x in ticks}
  except ValueError:
    at = {x: float(i) for i, x in enumerate(ticks)}
  with _axes(label) as (axes, done):
    for i, (name, line) in enumerate(lines.items()):
      colour = LINES[i % len(LINES)]
      places = sorted(line, key=at.get)
      for x in places:
        own = line[x]
        axes.plot([at[x]] * len(own), own, "o", color=colour, ms=3, alpha=0.5)
      middle = [float(np.mean(line[x])) for x in places]
      axes.plot([at[x] for x in places], middle, color=colour, lw=1.4, label=name)
    axes.set_xticks([at[x] for x in ticks], ticks)
    if len(lines) > 1:
      axes.legend(frameon=False, fontsize=7)
  return done[0]


def overlay(
  lines: Mapping[str, tuple[Sequence[int], Sequence[float]]], *, label: str
) -> str:
  """One metric of several runs over steps, each a line of its own.

  Args:
    lines: name of the run -> (steps, values), of equal length.
    label: read out to those who do not see the picture.
  Raises: ImportError without matplotlib.
  """
  with _axes(label) as (axes, done):
    for i, (name, (steps, values)) in enumerate(lines.items()):
      dash = "-" if i < len(LINES) else "--"
      colour = LINES[i % len(LINES)]
      axes.plot(steps, values, dash, color=colour, lw=1.2, label=name)
    axes.xaxis.set_major_locator(_ticker().MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(lambda x, _: thousands(x))
    if len(lines) > 1:
      axes.legend(frameon=False, fontsize=7)
  return done[0]


def _ticker():
  import matplotlib.ticker

  return matplotlib.ticker


@contextlib.contextmanager
def _axes(label: str) -> Iterator[tuple[Any, list[str]]]:
  """(axes of a small figure, a list that holds its `<svg>` once the block is left)."""
  try:
    import matplotlib
    from matplotlib.figure import Figure
  except ImportError as e:
    raise ImportError(
      "curves in report.html need matplotlib: pip install matplotlib"
    ) from e
  done = []
  with matplotlib.rc_context(STYLE | {"svg.hashsalt": label}):
    figure = Figure(figsize=(3.5, 2.0), layout="constrained")
    axes = figure.add_subplot()
    yield axes, done
    axes.grid(axis="y", color=INK, alpha=0.12, lw=0.6)
    file = io.StringIO()
    figure.savefig(
      file,
      format="svg",
      transparent=True,
      metadata={"Date": None, "Creator": None, "Type": None, "Format": None},
    )
  done.append(_inline(file.getvalue(), label))


def running_median(values: np.ndarray, width: int) -> np.ndarray:
  """Median over up to `width` values on either side, NaN ignored; [n] as `values`.

  Windows shrink towards the ends, so that they stay centred and bend no curve.
  """
  found = np.full(len(values), np.nan)
  for i in range(len(values)):
    half = min(width, i, len(values) - 1 - i)
    near = values[i - half : i + half + 1]
    if np.isfinite(near).any():
      found[i] = np.nanmedian(near)
  return found


def thousands(x: float) -> str:
  """1500 -> "1.5k", 2e6 -> "2M"."""
  for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
    if abs(x) >= size:
      return f"{x / size:.3g}{unit}"
  return f"{x:.3g}"


def _inline(svg, label):
  """The <svg> element alone: no prolog, namespaces, metadata or ids shared by pages."""
  svg = svg[svg.index("<svg") :]
  svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
  svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)  # would style the page
  svg = re.sub(r" font-family: [^;\"]*;", "", svg)
  svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
  svg = re.sub(r'<g id="[\w.]+">', "<g>", svg)  # figure_1, axes_1, ...
  svg = re.sub(r'(<svg[^>]*?)\swidth="[^"]*"', r"\1", svg, count=1)
  svg = re.sub(r'(<svg[^>]*?)\sheight="[^"]*"', r"\1", svg, count=1)
  svg = svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
  return svg.replace(INK, "currentColor")
