"""METEOR 1.5 by its own Java program, or not at all.

The score needs Java and `meteor-1.5.jar` with its `data/paraphrase-en.gz`; both come
with `pip install pycocoevalcap` but for Java itself. There is no imitation here under
the same name: without them `score` says what is missing.
"""

import importlib.util
import os
import pathlib
import shutil
import subprocess
from collections.abc import Sequence

import numpy as np

from vlp_jax.errors import UserError
from vlp_jax.evaluators.caption_scores import Score

JAR = "VLP_JAX_METEOR_JAR"  # environment variable: where the program lies
_FLAGS = ("-", "-", "-stdio", "-l", "en", "-norm")


def missing(jar: str = "") -> str:
  """What keeps METEOR from running here, "" if nothing does."""
  if shutil.which("java") is None:
    return "METEOR needs Java 8 or later, and there is no `java` on the PATH"
  at = find(jar)
  if at is None or not at.is_file():
    return (
      f"METEOR needs meteor-1.5.jar ({at or 'not found'}): pip install pycocoevalcap, "
      f"or set {JAR} to its path"
    )
  return ""


def find(jar: str = "") -> pathlib.Path | None:
  """The program given, that of the environment, or that of pycocoevalcap."""
  if jar or os.environ.get(JAR):
    return pathlib.Path(jar or os.environ[JAR])
  spec = importlib.util.find_spec("pycocoevalcap")
  if spec is None or not spec.submodule_search_locations:
    return None
  return pathlib.Path(spec.submodule_search_locations[0]) / "meteor" / "meteor-1.5.jar"


def score(
  references: Sequence[Sequence[Sequence[str]]],
  hypotheses: Sequence[Sequence[str]],
  *,
  jar: str = "",
) -> Score:
  """METEOR of tokens, as `caption_scores.of_tokens` takes them; best reference an item.

  The value of the set is made of its summed statistics, it is no mean of items.
  Raises: UserError if Java or the program is missing, or the program fails.
  """
  why = missing(jar)
  if why:
    raise UserError(f"{why}. Take 'meteor' out of the metrics, or install them.")
  at = find(jar).absolute()
  command = ["java", "-Xmx2G", "-jar", at.name, *_FLAGS]
  with subprocess.Popen(
    command,
    cwd=at.parent,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    encoding="utf-8",
  ) as process:

    def ask(line: str) -> str:
      process.stdin.write(f"{line}\n")
      process.stdin.flush()
      return answer()

    def answer() -> str:
      line = process.stdout.readline()
      if not line:
        raise UserError(f"{at} stopped: is it METEOR 1.5, with its data beside it?")
      return line.strip()

    stats = [
      ask(" ||| ".join(["SCORE", *map(_line, refs), _line(hyp)]))
      for refs, hyp in zip(references, hypotheses, strict=True)
    ]
    try:
      first = ask(" ||| ".join(["EVAL", *stats]))
      each = [float(first), *(float(answer()) for _ in stats[1:])]
      whole = float(answer())
    except ValueError as error:
      raise UserError(f"{at} answered no number: {error}.") from None
    process.stdin.close()
  return Score(whole, np.array(each))


def _line(tokens: Sequence[str]) -> str:
  # "|||" parts the fields of the program.
  return " ".join(" ".join(tokens).replace("|||", "").split())
