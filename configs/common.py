"""What the configs share: the argument of get_config, and the baseline of probes."""

import ast

import ml_collections

FORMS = dict(runlocal=False, generated=False, random=False)  # arguments of many configs


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
  """`"runlocal,variant=mu"` over defaults; a bare word switches a flag on.

  Raises: ValueError for a word that is no key of `defaults`.
  """
  out = dict(defaults)
  for part in filter(None, (arg or "").split(",")):
    key, equals, text = part.partition("=")
    if key not in defaults:
      raise ValueError(f"config argument {key!r}; known: {', '.join(defaults)}.")
    if not equals:
      out[key] = True
      continue
    try:
      out[key] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      out[key] = text
  return ml_collections.ConfigDict(out)


def untrained(c, steps=40):
  """Makes `c` the config of a network with random weights.

  Its batch statistics are those of the training data, as far as `steps` batches tell.
  """
  c.total_steps, c.optim.lr, c.optim.warmup = steps, 0.0, 0
  c.optim.schedule = "constant"
