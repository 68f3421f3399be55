"""What the commands of this package share: options, one-line errors, exit codes."""

import argparse
import sys
from collections.abc import Callable

from vlp_jax import errors


class Parser(argparse.ArgumentParser):
  """Options are written out in full; a mistake is one line."""

  def __init__(self, prog: str, about: str):
    super().__init__(
      prog=prog,
      description=about,
      formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False,
    )

  def error(self, message):
    raise errors.UserError(f"{message}. {self.prog} --help lists the options.")


def run(fn: Callable[[list[str]], int], argv: list[str], stopped: str = "") -> int:
  """`fn(argv without --debug)`: its exit code, or that of the error it raises.

  Args:
    stopped: what to say beside "interrupted".
  """
  debug = "--debug" in argv
  try:
    return fn([a for a in argv if a != "--debug"])
  except errors.VlpError as error:
    if debug:
      raise
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code
  except KeyboardInterrupt:
    print(f"error: interrupted{stopped}.", file=sys.stderr)
    return 130
