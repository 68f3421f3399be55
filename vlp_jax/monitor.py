"""The log side of the loop: files that survive kills, and one live line for people.

`metrics.jsonl` holds what is a function of config, seed and data, one object a logged
step, so that a run broken anywhere leaves the same bytes as an unbroken one. What
differs between two runs of the same thing (speed, waiting) goes to `timing.jsonl`. Only
process 0 writes.
"""

import contextlib
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

import jax
import numpy as np
from etils import epath

from vlp_jax import jsonl
from vlp_jax.metrics import Mean


class Monitor:
  """Counts what the loop does, writes the logs and keeps the terminal informed.

    monitor = Monitor(workdir, total_steps, start_step=state.step)
    with monitor.waiting():
      batch = next(batches)
    ...
    monitor.count(step, examples=256, tokens=11_000)
    monitor.log(step, means)  # before the checkpoint of this step is committed

  Args:
    workdir: local or `gs://`, None to write no files. Lines of steps beyond
      `start_step` are removed.
    total_steps: of the run, for the time left.
    start_step: the step restored, 0 for a new run.
    tensorboard: also write event files through clu, if it is installed. Nothing of clu
      or TensorFlow is imported otherwise.
    every_s: seconds between lines where the output is no terminal.
    peak_flops: FLOP/s of all devices together; 0 leaves the share of it out.
    live: one live line through rich; by default on a terminal with rich installed.
    process: index of this process; only 0 writes and prints.
    out, clock: for tests.
  """

  def __init__(
    self,
    workdir: epath.PathLike | None,
    total_steps: int,
    *,
    start_step: int = 0,
    tensorboard: bool = False,
    every_s: float = 10.0,
    peak_flops: float = 0.0,
    live: bool | None = None,
    process: int | None = None,
    out: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self.total_steps, self.every_s, self.clock = total_steps, every_s, clock
    self.main = (jax.process_index() if process is None else process) == 0
    self.out = sys.stdout if out is None else out
    self.start = self.logged_at = clock()
    self.step = self.logged_step = start_step
    self.examples = self.tokens = 0
    self.waited, self.flops = 0.0, np.zeros(2)
    self.peak_flops = peak_flops
    self.loss, self.rates, self.printed_at = None, {}, -math.inf
    self.board = self.screen = None
    if not self.main:
      return
    self.metrics = self.timing = None
    if workdir is not None:
      workdir = epath.Path(workdir)
      self.metrics = jsonl.Lines(workdir / "metrics.jsonl", last_step=start_step)
      self.timing = jsonl.Lines(workdir / "timing.jsonl", last_step=start_step)
    if live if live is not None else self.out.isatty():
      self.screen = _live(self.out)
    if tensorboard and workdir is not None:
      self.board = _board(workdir / "tensorboard")
      if self.board is None:
        self.say("no TensorBoard files: clu is not installed (pip install clu)")

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """Around everything that waits for data."""
    before = self.clock()
    yield
    self.waited += self.clock() - before

  def count(
    self,
    step: int,
    *,
    examples: int = 0,
    tokens: int = 0,
    flops: tuple[float, float] = (0.0, 0.0),
  ) -> None:
    """One step was done, of so many real examples and useful tokens (global).

    Args:
      flops: of the step, without and with what padding costs.
    """
    self.step, self.flops = step, self.flops + flops
    self.examples, self.tokens = self.examples + examples, self.tokens + tokens
    self._show()

  def log(self, step: int, metrics: Mapping[str, Mean | jax.Array | float]) -> None:
    """One line in `metrics.jsonl` and one in `timing.jsonl`.

    Args:
      step: number of steps done; larger than that of every line before.
      metrics: scalars, or `Mean`s, of which empty ones are left out. Call it on every
        process if fetching needs them all; only process 0 writes.
    """
    values = {k: _value(m) for k, m in jax.device_get(dict(metrics)).items()}
    values = {k: jsonl.rounded(x) for k, x in values.items() if x is not None}
    self.step = max(self.step, step)
    self._measure(step)
    if not self.main:
      return
    if self.metrics is not None:
      self.metrics.add(values | {"step": step})
      rates = {k: jsonl.rounded(x) for k, x in self.rates.items()}
      self.timing.add(rates | {"step": step})
    self.loss = values.get("loss", self.loss)
    if self.board is not None:
      scalars = {k: x for k, x in values.items() if x is not None}
      speed = {f"timing/{k}": x for k, x in self.rates.items()}
      self.board.write_scalars(step, scalars | speed)
    self._show(last=step >= self.total_steps)

  def _measure(self, step):
    now = self.clock()
    spent = max(now - self.logged_at, 1e-9)
    self.rates = {
      "wall_s": now - self.start,
      "steps_per_s": (step - self.logged_step) / spent,
      "examples_per_s": self.examples / spent,
      "tokens_per_s": self.tokens / spent,
      "wait_share": min(self.waited / spent, 1.0),
    }
    if self.peak_flops and self.flops[0]:
      share = self.flops / (spent * self.peak_flops)
      self.rates |= {"mfu": float(share[0]), "mfu_padded": float(share[1])}
    self.examples, self.tokens, self.flops = 0, 0, np.zeros(2)
    self.waited, self.logged_at, self.logged_step = 0.0, now, step

  def line(self) -> str:
    """Step, loss, speed, time left and share of waiting, as of the last log."""
    parts = [f"step {self.step:,}/{self.total_steps:,}"]
    if self.loss is not None:
      parts.append(f"loss {self.loss:.4g}")
    if self.rates:
      parts.append(f"{self.rates['examples_per_s']:,.4g} examples/s")
      if self.rates["tokens_per_s"]:
        parts.append(f"{self.rates['tokens_per_s']:,.0f} useful tokens/s")
      if self.rates["steps_per_s"]:
        left = max(self.total_steps - self.step, 0) / self.rates["steps_per_s"]
        parts.append(f"{duration(left)} left")
      if "mfu" in self.rates:
        parts.append(f"{self.rates['mfu']:.1%} of peak FLOP/s")
      parts.append(f"{self.rates['wait_share']:.0%} waiting for data")
    return " | ".join(parts)

  def _show(self, *, last=False):
    now = self.clock()
    every = 0.25 if self.screen else self.every_s
    if not self.main or (now - self.printed_at < every and not last):
      return
    self.printed_at = now
    if self.screen:
      self.screen.update(self.line(), refresh=True)
    else:
      print(self.line(), file=self.out, flush=True)

  def say(self, text: str) -> None:
    """A line of its own, above the live one."""
    if self.main and self.screen:
      self.screen.console.print(text, markup=False, highlight=False)
    elif self.main:
      print(text, file=self.out, flush=True)

  def close(self) -> None:
    """Ends the live line and the event files; the log files are always complete."""
    if self.board is not None:
      self.board.close()
    if self.screen:
      self.screen.update(self.line(), refresh=True)
      self.screen.stop()
    self.board = self.screen = None

  def __enter__(self) -> "Monitor":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def add(window: dict, task: str, means: Mapping[str, Mean]) -> None:
  """Adds the sums of one step to the open line of the log, {name: (total, weight)}.

  Names get the task's before them unless they begin with it; the loss counts for the
  whole run as well. JSON holds the sums exactly, so a resumed line is the unbroken one.
  """
  for name, mean in means.items():
    own = name if name.split("/")[0] == task else f"{task}/{name}"
    for key in (own, name) if name == "loss" else (own,):
      total, weight = window.get(key, (0.0, 0.0))
      window[key] = total + float(mean.total), weight + float(mean.weight)


def means(window: Mapping[str, tuple[float, float]]) -> dict[str, float]:
  """The values of a window; what was never seen with a weight is left out."""
  return {k: t / w for k, (t, w) in window.items() if w}


def duration(seconds: float) -> str:
  """Two units at most: "42 s", "3 min 05 s", "2 h 10 min", "4 d 06 h"."""
  s = round(seconds)
  if s < 60:
    return f"{s} s"
  if s < 3600:
    return f"{s // 60} min {s % 60:02d} s"
  if s < 86400:
    return f"{s // 3600} h {s % 3600 // 60:02d} min"
  return f"{s // 86400} d {s % 86400 // 3600:02d} h"


def _value(x):
  """A float; None for a mean over nothing."""
  if not isinstance(x, Mean):
    return float(np.asarray(x, np.float64))
  total, weight = (float(np.asarray(v, np.float64)) for v in x)
  return total / weight if weight else None


def _live(out):
  """A live line of rich on this terminal; None where rich is not installed."""
  try:
    from rich import console, live
  except ImportError:
    return None
  screen = live.Live(console=console.Console(file=out), auto_refresh=False)
  screen.start()
  return screen


def _board(folder):
  """A writer of event files; None where clu or TensorFlow is not installed."""
  try:
    from clu import metric_writers

    return metric_writers.SummaryWriter(os.fspath(folder))
  except ImportError:
    return None
