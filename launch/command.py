"""What the commands share: flags, one-line errors with exit codes, --debug."""

import ast
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from absl import flags

from vlp_jax import keywords, resolve, settings
from vlp_jax.errors import UserError, VlpError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A second start takes compiled steps (of a second and more) from here.
_CACHE = os.path.expanduser(os.environ.get("VLP_JAX_CACHE", "~/.cache/vlp_jax"))
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(_CACHE, "jax"))
flags.DEFINE_bool("debug", False, "Show tracebacks of user errors.")


def config_of(path: str) -> Any:
  """The config of `path[:arg]`, a Python file with `get_config(arg)`.

  Config files are Python and run with full rights: never load one from elsewhere.
  """
  file, _, arg = path.partition(":")
  if "://" in path:
    raise UserError(f"--config {path}: config files are code and are not fetched.")
  if not os.path.exists(file):
    raise UserError(f"--config {file}: no such file. Configs lie under configs/.")
  spec = importlib.util.spec_from_file_location("config", file)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise UserError(f"--config {file} has no get_config(arg).")
  return module.get_config(arg or None)


def require(*names: str) -> None:
  """Raises UserError for a flag that was not given."""
  for name in names:
    if not flags.FLAGS[name].value:
      raise UserError(f"--{name} is missing; see --help.")


def override(config: Any, changes: list[str]) -> None:
  """Applies `--config.x.y=v` arguments in place; values are Python literals or text.

  A key may also be one that the config leaves out and that the model, function or
  pipeline behind its mapping takes.
  Raises: UserError for any other key, or a value of another type.
  """
  for change in changes:
    path, equals, text = change.removeprefix("--config.").partition("=")
    if not equals:
      raise UserError(f"{change}: write --config.{path}=VALUE.")
    *parents, last = path.split(".")
    try:
      value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    node = settings.plain(config)
    for depth, key in enumerate(parents):
      if key not in node and not keywords.optional(tuple(parents[: depth + 1])):
        raise UserError(f"--config.{path}: no {key!r}.{resolve.nearest(key, node)}")
      node = node.get(key, {})
      if not isinstance(node, Mapping):
        raise UserError(f"--config.{path}: {key} is {node!r} and has no keys.")
    keywords.check(settings.plain(config), tuple(parents), last, value)
    node = config
    for key in parents:
      if key not in node:
        with node.unlocked():
          node[key] = {}
      node = node[key]
    try:
      with node.unlocked():
        node[last] = value
    except TypeError as error:
      raise UserError(f"--config.{path}={text}: {error}") from error


def split(argv: list[str]) -> tuple[list[str], list[str]]:
  """(other arguments, `--config.x=v` overrides), whatever their order."""
  changes = [a for a in argv if a.startswith("--config.")]
  return [a for a in argv if not a.startswith("--config.")], changes


def main(
  fn: Callable[..., Any], *, overrides: bool = False, extra: bool = False
) -> None:
  """Runs `fn()`; errors are one line and a code.

  With `overrides` it is `fn(changes)`, with `extra` what stands behind the flags:
  `fn(arguments)`.
  """
  module = sys.modules["__main__"]
  flags.adopt_module_key_flags(sys.modules[__name__], flags.FLAGS)
  argv, changes = split(sys.argv) if overrides else (sys.argv, [])
  if {"--help", "-h", "-help"} & set(argv):
    print(f"{(module.__doc__ or '').strip()}\n{flags.FLAGS.main_module_help()}")
    sys.exit(0)
  debug = "--debug" in argv
  try:
    rest = flags.FLAGS(argv)[1:]
    if rest and not extra:
      raise UserError(f"unexpected argument {rest[0]!r}; see --help.")
    fn(*([changes] if overrides else []), *([rest] if extra else []))
  except flags.Error as error:
    print(f"error: {error} See --help.".replace("\n", " "), file=sys.stderr)
    sys.exit(UserError.exit_code)
  except VlpError as error:
    if debug:
      raise
    print(f"error: {error}".replace("\n", " "), file=sys.stderr)
    sys.exit(error.exit_code)
  except KeyboardInterrupt:
    sys.exit(130)
