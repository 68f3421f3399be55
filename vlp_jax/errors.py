"""Errors a user meets, each with the exit code of the command that it ends.

The message is one line: what, where, expected, found, what to do. `launch` prints it
and leaves with `exit_code`; the traceback shows only with --debug.
"""

import contextlib
from collections.abc import Iterator

# What a value of a config raises in the code of models, objectives and of jax.
_TRACING = (ValueError, TypeError, KeyError, ArithmeticError, RuntimeError)


class VlpError(Exception):
  """Base of all errors that end a command with a line and a code of their own."""

  exit_code = 1


class UserError(VlpError):
  """A mistake in a config, a command line or the user's data."""

  exit_code = 2


class DataBudgetError(VlpError):
  """More damaged records than the budget allows."""

  exit_code = 3


class CheckpointError(VlpError):
  """A checkpoint is damaged, or of another model, vocabulary or data set."""

  exit_code = 4


class NumericError(VlpError):
  """Ten non-finite steps in a row."""

  exit_code = 5


class Preempted(VlpError):
  """Stopped from outside with a checkpoint saved: start the same command again."""

  exit_code = 75


@contextlib.contextmanager
def of_config(what: str) -> Iterator[None]:
  """Around tracing: mistakes that only show there are of `what` in the config.

  A bug of ours looks the same, so the cause is kept and --debug shows it. A message
  that is not of a ValueError or KeyError, by which our code tells a caller's mistake,
  has the name of its class before it.
  Raises: UserError in place of what tracing raised; errors with a code pass as they
    are.
  """
  try:
    yield
  except _TRACING as error:
    told = error.args[0] if isinstance(error, KeyError) and error.args else error
    kind = "" if isinstance(error, ValueError | KeyError) else type(error).__name__
    said = ": ".join(k for k in (what, kind, " ".join(str(told).split())) if k)
    raise UserError(f"{said} (--debug shows where)") from error
