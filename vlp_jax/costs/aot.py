"""Compiling ahead of time: a program, or how much memory it wants of a device."""

import re
from typing import NamedTuple

import jax

from vlp_jax.errors import UserError

# As the compiler for TPU says it: of a whole program, or of its temporaries alone.
_NEEDS = (
  re.compile(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm"),
  re.compile(r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds"),
)
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Attempt(NamedTuple):
  """What became of a compile.

  Attributes:
    program: None where it does not fit the device.
    needed: bytes that the compiler then asks for; else 0.
  """

  program: jax.stages.Compiled | None
  needed: int = 0


def attempt(lowered: jax.stages.Lowered) -> Attempt:
  """Compiles. Raises: UserError where the compiler stops, but not for its memory."""
  try:
    return Attempt(lowered.compile())
  except jax.errors.JaxRuntimeError as error:
    text = str(error)
    found = next(filter(None, (form.search(text) for form in _NEEDS)), None)
    if "RESOURCE_EXHAUSTED" not in text or not found:
      told = text.partition("\n")[0][:300]
      raise UserError(f"the compiler stops: {told}") from error
    return Attempt(None, round(float(found[1]) * _UNITS[found[2]]))
