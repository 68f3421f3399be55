"""A progress bar with the time left, on stderr."""

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def bar(
  label: str, total: int, *, done: int = 0, quiet: bool = False
) -> Iterator[Callable[[int], None]]:
  """Yields the function that is told how many of `total` are done beside `done`."""
  from rich import console, progress  # worker processes do not need it

  shown = progress.Progress(
    progress.TextColumn(label),
    progress.BarColumn(),
    progress.MofNCompleteColumn(),
    progress.TimeElapsedColumn(),
    progress.TextColumn("left"),
    progress.TimeRemainingColumn(),
    console=console.Console(stderr=True),
    disable=quiet,
  )
  with shown:
    task = shown.add_task(label, total=total, completed=done)
    yield lambda n: shown.update(task, completed=done + n)
