"""Shapes of a config's batches without its data: from the model, `input` and flags.

A model's `spec()` says which keys it reads; `vlp_jax.batch` has the axes of each key as
letters; the keywords of `input`, with the defaults in the signature of the pipeline's
`define`, give the letters sizes. Nothing of the pipeline is imported: its signature is
read as text, for it sits behind ten seconds of TensorFlow.
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
from vlp_jax import settings as settings_lib
from vlp_jax.errors import UserError
from vlp_jax.vocab import Vocab

# Letters of the contract -> keywords of inputs that size them. Words of texts that get
# [CLS] and [SEP] are counted without these two.
KEYWORDS = {
  "T": ("num_frames", "num_clips"),
  "H": ("size",),
  "W": ("size",),
  "R": ("max_regions", "num_regions"),
  "K": ("candidates", "num_choices"),
  "L": ("max_words", "max_tokens"),
}
FLAGS = {"T": "frames", "H": "size", "W": "size", "R": "regions", "L": "words"}
WIDTHS = ("D", "C")  # of features: the model's own numbers
MADE = ("mlm_positions", "regions_masked")  # by objectives
# Vocabularies of published runs, by file: their sizes are known without the file.
SIZES = {
  "bert-base-cased-vocab.txt": 28_996,
  "bert-base-uncased-vocab.txt": 30_522,
  "dict.npy": 66_250,
}


def vocabulary(settings: settings_lib.Settings, size: int | None = None) -> Vocab:
  """The run's vocabulary as numbers: of `size`, its file, or a published file's.

  Raises: UserError when none of them is known.
  """
  given = settings.vocab
  file = str(given.get("file", ""))
  if size is None and pathlib.Path(file).is_file():
    return settings_lib.vocabulary(settings)[0]
  if size is None and "name" not in given:
    return settings_lib.vocabulary(settings)[0]
  size = size or SIZES.get(pathlib.Path(file).name)
  if size is None:
    raise UserError(
      f"vocab.file {file} is not here, so its size is unknown: give --vocab_size, or "
      "make the file first (data_pipelines.prepare)."
    )
  if size < 8:
    raise UserError(f"--vocab_size is {size}; a vocabulary has at least 8 ids.")
  special = tuple(range(5))
  return Vocab(size, 0, 1, 2, 3, 4, special, (len(special), size))


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
  Raises: UserError naming the flag that would give what is missing.
  """
  sizes = {k: v for k, v in (sizes or {}).items() if v}
  given = (defaults(given["task"]) if given.get("task") else {}) | dict(given)
  spec = {k: s for k, s in model.spec().items() if _read(k, given)}
  known = _letters(given, spec) | sizes
  text, regions = "text_ids" in spec, "regions_mask" in spec
  if text and regions:
    longest = known.get("L", 0) + known.get("R", 0)
    known.setdefault("M", longest)
    # A sequence of M holds at least [CLS], [SEP] and one region.
    for letter, least in (("L", 1), ("R", 2)):
      if letter in known:
        known[letter] = min(known[letter], known["M"] - least)
  rows = known.get("B") or _rows(given, known, shards)
  out = {k: _shaped(k, s, rows, known) for k, s in spec.items()}
  if text and regions:
    out |= _fused(model, given, rows, known)
  ids = jax.ShapeDtypeStruct((rows,), jnp.int32)
  real = jax.ShapeDtypeStruct((rows,), jnp.bool_)
  out |= {"example_id": ids, "group_id": ids, "example_mask": real}
  batch_lib.check(out)
  return out


def _read(key, given) -> bool:
  """Whether the pipeline gives a key of the model's spec."""
  stream = key.rsplit("_", 1)[0]
  if key in MADE or key.endswith("_delta"):
    return False
  if stream in ("text", "narration") and given.get("task") == "narrated_clips":
    kind = given.get("text", "narration")
    return stream == {"narration": "narration", "caption": "text"}.get(kind)
  fields = given.get("fields", ())
  if stream in ("video", "audio") and {"video", "audio"} & set(fields):
    return stream in fields
  return True


def _letters(given, spec) -> dict[str, int]:
  out = {}
  for letter, names in KEYWORDS.items():
    for name in names:
      if isinstance(given.get(name), int):
        out.setdefault(letter, given[name])
  wrapped = "max_tokens" in given and "max_words" not in given
  return out | ({"L": out["L"] + 2} if wrapped else {})


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


def _shaped(key, spec, rows, known) -> jax.ShapeDtypeStruct:
  """The key at full size; widths stay the model's."""
  axes = batch_lib.FIELDS[key][0]
  letters = ("T H W 3" if key.endswith("_frames") else axes).split()
  shape = [rows, *spec.shape[1:]]
  for at, letter in enumerate(reversed(letters), 1):
    if letter in WIDTHS or letter.isdigit() or letter == "...":
      continue
    if letter not in known:
      flag = FLAGS.get(letter)
      hint = f"give --{flag}" if flag else "set it in config.input"
      raise UserError(f"the size {letter} of {key} is not in config.input: {hint}.")
    shape[-at] = known[letter]
  dtype = jnp.float16 if key.endswith("_features") else spec.dtype  # as stored
  return jax.ShapeDtypeStruct(tuple(shape), dtype)


def _fused(model, given, rows, known) -> dict[str, jax.ShapeDtypeStruct]:
  """What the pipeline of texts with regions adds: index, pairs, asked-for fields."""
  out = {"match": jax.ShapeDtypeStruct((rows,), jnp.int32)}
  index = (rows, known["M"])
  out["fuse_index"] = jax.ShapeDtypeStruct(index, jnp.int32)
  if "regions_probs" in given.get("fields", ()):
    probs = (rows, known["R"], model.region_classes)
    out["regions_probs"] = jax.ShapeDtypeStruct(probs, jnp.float16)
  return out
