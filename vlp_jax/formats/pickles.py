"""Pickles of arrays, read by an unpickler that can build nothing else.

A pickle is a program that may call any importable function. This reader knows a short
list of names and has its own harmless stand-in for each; any other name ends the read
before anything is called. It is the library's Python unpickler, since the compiled one
can be made to allocate gigabytes by ten bytes (a large memo index).
"""

import collections
import pickle
import struct
from collections.abc import Callable, Mapping
from typing import BinaryIO, ClassVar

import numpy as np

from vlp_jax.errors import UserError
from vlp_jax.formats import dtypes

# What damaged or hostile bytes make the unpickler raise.
DAMAGE = (
  pickle.UnpicklingError,
  ArithmeticError,
  AttributeError,
  EOFError,
  LookupError,
  MemoryError,
  RecursionError,
  TypeError,
  ValueError,
)


class Inert:
  """Stands for an object that is of no use here: a name space, a device, a path."""

  __slots__ = ()


class Bfloat16(Inert):
  """The type `ml_dtypes.bfloat16`."""

  __slots__ = ()


class Function:
  """A callable without attributes that a pickle could set."""

  __slots__ = ("_fn",)

  def __init__(self, fn):
    self._fn = fn

  def __call__(self, *args):
    return self._fn(*args)


class Dtype:
  """A numpy dtype under construction."""

  __slots__ = ("text",)

  def __init__(self, text, *_):
    self.text = dtypes.BFLOAT16 if isinstance(text, Bfloat16) else str(text)

  def build(self, state):
    if any(state[2:5]):
      raise UserError("a structured numpy dtype; plain numbers are read.")
    order = state[1] if state[1] in "<>" else ""
    if self.text != dtypes.BFLOAT16:
      self.text = order + self.text
    return self.checked()

  def checked(self):
    if self.text != dtypes.BFLOAT16 and np.dtype(self.text).kind not in "biufcSU":
      raise UserError(f"a numpy array of {self.text}, which can carry code; not read.")
    return self


class Array:
  """A numpy array under construction; `value` is set when all is known."""

  __slots__ = ("value",)

  def __init__(self, *_):
    self.value = None

  def build(self, state):
    _, shape, dtype, fortran, raw = state
    if isinstance(raw, str):  # protocol 2 of Python 2
      raw = raw.encode("latin1")
    return self.fill(raw, dtype, shape, "F" if fortran else "C")

  def fill(self, raw, dtype, shape, order="C"):
    if not isinstance(raw, bytes | bytearray):
      raise UserError("an array of Python objects, which can carry code; not read.")
    text, sizes = dtype.checked().text, tuple(int(n) for n in shape)
    flip = sizes[::-1] if order == "F" else sizes
    value = dtypes.array(bytes(raw), text, flip, "an array")
    self.value = value.T if order == "F" else value
    return self


def _scalar(dtype, raw):
  raw = raw.encode("latin1") if isinstance(raw, str) else raw
  return Array().fill(raw, dtype, ())


def _ordered(items=()):
  return collections.OrderedDict(items)


def _flat_mapping(items, *rest):
  if rest or not isinstance(items, Mapping):
    raise UserError(
      "a Haiku FlatMapping of an unknown form; save plain dicts of arrays."
    )
  return dict(items)


def _encode(text, encoding="latin1"):
  if encoding not in ("latin1", "latin-1"):
    raise UserError(f"bytes in encoding {encoding!r}.")
  return text.encode("latin1")


def _inert(*_):
  return Inert()


def names() -> dict[tuple[str, str], Callable]:
  """(module, name) -> stand-in of everything a pickle of numpy arrays may name."""
  known = {
    ("collections", "OrderedDict"): _ordered,
    ("collections", "defaultdict"): lambda *_: {},
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): _inert,
    ("numpy", "dtype"): Dtype,
    ("haiku._src.data_structures", "FlatMapping"): _flat_mapping,
    ("argparse", "Namespace"): _inert,
    ("pathlib", "PosixPath"): _inert,
  }
  for core in ("numpy.core", "numpy._core"):
    known[f"{core}.multiarray", "_reconstruct"] = Array
    known[f"{core}.multiarray", "scalar"] = _scalar
    known[f"{core}.numeric", "_frombuffer"] = lambda *a: Array().fill(*a)
  known = {k: Function(fn) for k, fn in known.items()}
  return known | {("ml_dtypes", "bfloat16"): Bfloat16()}


class Unpickler(pickle._Unpickler):
  """Reads one pickle of `f`.

  Args:
    known: (module, name) -> stand-in; nothing else is built.
    load: maps a persistent id to what stands for it, as torch files use them.
  """

  dispatch: ClassVar[dict] = dict(pickle._Unpickler.dispatch)

  def __init__(self, f: BinaryIO, name: str, known=None, load=None):
    super().__init__(f, encoding="latin1")
    self._name, self._known, self._load = (
      name,
      names() if known is None else known,
      load,
    )

  def find_class(self, module, name):
    if (module, name) not in self._known:
      hint = " It holds jax arrays: save numpy ones." if "jax" in module else ""
      raise UserError(
        f"{self._name} names {module}.{name}, which is no array and could be code; it "
        f"is not read.{hint} Accepted: tensors, numpy arrays, dicts, lists, numbers."
      )
    return self._known[module, name]

  def get_extension(self, code):
    raise UserError(f"{self._name} uses pickle extension {code}; it is not read.")

  def persistent_load(self, pid):
    if self._load is None:
      raise UserError(
        f"{self._name} refers to data outside the pickle; it is not read."
      )
    return self._load(pid)

  def load_build(self):
    state = self.stack.pop()
    it = self.stack[-1]
    if isinstance(it, Dtype | Array):
      it.build(state)
    elif not isinstance(it, Inert | collections.OrderedDict):
      # An OrderedDict carries torch's _metadata: of no use here.
      raise UserError(f"{self._name} sets the state of {type(it).__name__}; not read.")

  def load_newobj(self):
    args = self.stack.pop()
    self.stack[-1] = self.stack[-1](*args)

  def load_newobj_ex(self):
    keywords, args = self.stack.pop(), self.stack.pop()
    self.stack[-1] = self.stack[-1](*args, **keywords)

  def load_bytearray8(self):
    (size,) = struct.unpack("<Q", self.read(8))
    self.append(bytearray(self.read(size)))  # not zeros of a size that is only said

  dispatch[pickle.BUILD[0]] = load_build
  dispatch[pickle.NEWOBJ[0]] = load_newobj
  dispatch[pickle.NEWOBJ_EX[0]] = load_newobj_ex
  dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8


def load(f: BinaryIO, name: str, **keywords):
  """The object of one pickle, arrays still inside `Array`.

  Raises: UserError if it names anything unknown, or is damaged.
  """
  try:
    return Unpickler(f, name, **keywords).load()
  except DAMAGE as error:
    raise UserError(
      f"{name}: damaged pickle ({type(error).__name__} {error})."
    ) from None
