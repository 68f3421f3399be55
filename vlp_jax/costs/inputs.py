"""Shapes of a config's batches without its data: from the model, `input` and flags.

`costs.pipelines` says which keys each task of `data_pipelines` gives for the keywords
of `input`; `vlp_jax.batch` has the axes of each key as letters, and the keywords, with
the defaults in the signature of the task's `define`, give the letters sizes. Nothing of
the pipeline is imported: its signature is read as text, for it sits behind ten seconds
of TensorFlow. Without a task the model's `spec()` stands for the keys.
"""

import ast
import importlib.util
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vlp_jax import batch as batch_lib
from vlp_jax import resolve
from vlp_jax import settings as settings_lib
from vlp_jax.costs import pipelines
from vlp_jax.errors import UserError
from vlp_jax.vocab import Vocab

FLAGS = {  # of launch.cost, by letter
  "B": "rows",
  "M": "length",
  "L": "words",
  "R": "regions",
  "T": "frames",
  "H": "size",
  "W": "size",
}
MADE = ("mlm_positions", "regions_masked")  # of a spec, by objectives
# Vocabularies of published runs, by file: their sizes are known without the file.
SIZES = {
  "bert-base-cased-vocab.txt": 28_996,
  "bert-base-uncased-vocab.txt": 30_522,
  "dict.npy": 66_250,
  "word2vec.txt": 65_536,
}
# Where nothing is known: the vocabulary of a published run of that kind.
STAND_INS = {
  "byte_bpe": 50_370,
  "clip_bpe": 49_408,
  "sentencepiece": 32_000,
  "wordpiece": 30_522,
  "words": 66_250,
}


def vocabulary(
  settings: settings_lib.Settings, size: int | None = None
) -> tuple[Vocab, str]:
  """The run's vocabulary as numbers, and what people should know of them.

  Args: size: of the vocabulary, whatever the config says.
  Returns: the vocabulary of `size`, of its file, of a published file's size, or a
    stand-in; a note for a stand-in, else "".
  Raises: UserError for no such kind of vocabulary.
  """
  kind, file = settings.vocab.get("name"), str(settings.vocab.get("file", ""))
  if size is None and (kind is None or pathlib.Path(file).is_file()):
    return settings_lib.vocabulary(settings)[0], ""
  note = ""
  if size is None:
    size = SIZES.get(pathlib.Path(file).name)
  if size is None:
    if kind not in STAND_INS:
      raise UserError(f"vocab.name {kind!r}.{resolve.nearest(kind, STAND_INS)}")
    size = STAND_INS[kind]
    note = (
      f"vocab.file {file} is not here: counted with {size:,} ids, those of a published "
      f"vocabulary of kind {kind!r}; --vocab_size sets another size"
    )
  special = tuple(range(5))
  return Vocab(size, 0, 1, 2, 3, 4, special, (len(special), size)), note


def defaults(task: str) -> dict[str, Any]:
  """Defaults in the signature of `data_pipelines.tasks.<task>:define`, unimported."""
  found = importlib.util.find_spec(f"data_pipelines.tasks.{task}")
  if found is None or found.origin is None:
    raise UserError(f"input.task {task!r} is no file of data_pipelines/tasks.")
  for node in ast.walk(ast.parse(pathlib.Path(found.origin).read_text())):
    if isinstance(node, ast.FunctionDef) and node.name == "define":
      pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
      return {
        a.arg: ast.literal_eval(d)
        for a, d in pairs
        if isinstance(d, ast.Constant | ast.Tuple)
      }
  raise UserError(f"data_pipelines/tasks/{task}.py has no define().")


def members(given: Mapping[str, Any]) -> dict[str, tuple[dict[str, Any], float]]:
  """{name: (input, share of the batches)} of a mixture; {"": ...} of anything else."""
  if not given.get("mixture"):
    return {"": (dict(given), 1.0)}
  found = resolve.module("data_pipelines", "mixture").members(given)
  total = sum(rate for _, rate in found.values())
  return {name: (one, rate / total) for name, (one, rate) in found.items()}


def batch(
  model: Any,
  given: Mapping[str, Any],
  *,
  shards: int = 1,
  sizes: Mapping[str, int] | None = None,
) -> dict[str, jax.ShapeDtypeStruct]:
  """Shapes of a global batch.

  Args:
    given: `input` of a task; {} takes everything from `sizes`.
    shards: data shards times microbatches; rows of a token budget divide by it.
    sizes: by letter, over those of `given`; B rows, M fused tokens.
  Raises: UserError naming the flag that would give what is missing, or what has no
    shapes before the data are read.
  """
  sizes = {k: v for k, v in (sizes or {}).items() if v is not None}
  for key, why in pipelines.UNKNOWN.items():
    if given.get(key):
      raise UserError(f"input.{key}: {why}.")
  if given.get("task"):
    given = defaults(given["task"]) | dict(given)
    keys, known = pipelines.of(given["task"], given, model)
  else:
    keys = [k for k in model.spec() if k not in MADE and not k.endswith("_delta")]
    known = pipelines.plain(given, model)
    if {"text_ids", "regions_mask"} <= set(keys):
      keys += ["match", "fuse_index"]
  known |= sizes
  if "fuse_index" in keys:
    _fit(known, sum(k in keys for k in ("regions_mask", "regions2_mask")))
  rows = known.get("B") or _rows(given, known, shards)
  out = {k: _shaped(k, model, rows, known) for k in keys}
  ids = jax.ShapeDtypeStruct((rows,), jnp.int32)
  real = jax.ShapeDtypeStruct((rows,), jnp.bool_)
  out |= {"example_id": ids, "group_id": ids, "example_mask": real}
  batch_lib.check(out)
  return out


def _fit(known, images) -> None:
  """M of the longest row if it is not given; else L and R that it has room for."""
  known.setdefault("M", known.get("L", 0) + images * known.get("R", 0))
  # A sequence of M holds at least [CLS], [SEP] and one region.
  for letter, least in (("L", 1), ("R", 2)):
    if letter in known:
      known[letter] = min(known[letter], known["M"] - least)


def _rows(given, known, shards) -> int:
  if given.get("rows"):
    return given["rows"]
  if not given.get("tokens"):
    raise UserError("input has neither rows nor tokens; give --rows.")
  length = known.get("M") or known.get("L")
  if not length:
    raise UserError("input.tokens is a budget of rows x length; give --length.")
  unit = math.lcm(8, shards)
  rows = given["tokens"] // length // unit * unit
  if not rows:
    raise UserError(
      f"input.tokens={given['tokens']} holds {given['tokens'] // length} rows of "
      f"{length}, fewer than {unit} (8, shards and microbatches); give a smaller "
      "--length, fewer --chips or more tokens."
    )
  return rows


def _shaped(key, model, rows, known) -> jax.ShapeDtypeStruct:
  """The key at full size; widths are the model's."""
  axes, dtypes = pipelines.axes(key, known)
  shape = [rows]
  for letter in axes:
    size = int(letter) if letter.isdigit() else known.get(letter)
    if letter in pipelines.WIDTHS:
      size = pipelines.width(key, model)
    if size is None:
      flag = FLAGS.get(letter)
      hint = f"give --{flag}" if flag else pipelines.HINTS.get(letter, "set it there")
      raise UserError(f"the size {letter} of {key} is not in config.input: {hint}.")
    shape.append(size)
  return jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtypes[0]))
