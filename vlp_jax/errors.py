"""Errors a user meets, each with the exit code of the command that it ends.

The message is one line: what, where, expected, found, what to do. `launch` prints it
and leaves with `exit_code`; the traceback shows only with --debug.
"""


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
