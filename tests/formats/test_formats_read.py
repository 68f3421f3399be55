"""Foreign weight files: right values from honest ones, an error from all others.

The files in tests/golden were made by tests/golden/make_weight_files.py.
"""

import collections
import io
import json
import os
import pathlib
import pickle
import resource
import struct
import zipfile

import numpy as np
import pytest

from tests import helpers
from vlp_jax.errors import UserError
from vlp_jax.formats import read

GOLDEN = helpers.ROOT / "tests" / "golden"


def fill(*shape):
  return (0.02 * np.sin(np.arange(np.prod(shape)))).reshape(shape)


def chopped(x):
  """float64 -> the nearest bfloat16 (ties to even), as float32."""
  bits = np.float32(x).view(np.uint32).astype(np.uint64)
  bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16
  return bits.astype(np.uint32).view(np.float32)


@pytest.mark.parametrize("name", ["torch_zip.pth", "torch_legacy.pth"])
def test_torch(name):
  got = read.without_prefix(read.read(GOLDEN / name))
  want = {
    "embed.weight": fill(6, 4).astype(np.float32),
    "head.weight": fill(6, 4).astype(np.float32),
    "linear.weight": fill(3, 4).astype(np.float32).T,
    "half": fill(5).astype(np.float16),
    "bfloat": chopped(fill(5)),
    "ids": np.arange(8)[None],
    "repeated": np.tile(np.arange(3, dtype=np.int32), (2, 1)),
    "mask": np.array([True, False]),
    "steps": np.int64(7),
    "empty": np.zeros((0, 3), np.float32),
    "part": fill(10)[3:7].astype(np.float32),
    "parameter": fill(2, 2).astype(np.float32),
  }
  assert list(got) == list(want)
  for k, v in want.items():
    assert got[k].dtype == v.dtype, k
    np.testing.assert_array_equal(got[k], v, err_msg=k)


@pytest.mark.parametrize("end", ["", ".index"])
def test_tensorflow(end):
  got = read.read(GOLDEN / f"tf_bundle{end}")
  assert len(got) == 44
  want = fill(3, 4).astype(np.float32)
  np.testing.assert_array_equal(got["bert/encoder/kernel"], want)
  np.testing.assert_array_equal(got["bert/encoder/bias"], chopped(fill(4)))
  np.testing.assert_array_equal(got["half"], fill(5).astype(np.float16))
  assert got["steps"] == 7
  assert [got[f"layer_{i:02d}/scale"].tolist() for i in range(40)] == [
    [float(i)] for i in range(40)
  ]
  assert "title" not in got


def test_tensorflow_data_cut_off(tmp_path):
  for file in GOLDEN.glob("tf_bundle.*"):
    data = file.read_bytes()
    (tmp_path / file.name).write_bytes(data if "index" in file.name else data[:20])
  with pytest.raises(UserError, match="cut off"):
    read.read(tmp_path)


def test_safetensors(tmp_path):
  ml_dtypes = pytest.importorskip("ml_dtypes")
  numpy_save = pytest.importorskip("safetensors.numpy")
  want = {
    "a.weight": fill(3, 4).astype(np.float32),
    "b": fill(5).astype(ml_dtypes.bfloat16),
    "c": np.array([1, -2], np.int64),
    "d": np.array([True]),
    "e": np.zeros((0, 2), np.float16),
  }
  path = tmp_path / "a.safetensors"
  numpy_save.save_file(want, path, metadata={"format": "np"})
  got = read.read(path)
  assert sorted(got) == sorted(want)
  for k, v in want.items():
    np.testing.assert_array_equal(got[k], v.astype(got[k].dtype), err_msg=k)
  assert got["b"].dtype == np.float32


def test_npz_and_npy(tmp_path):
  want = {"a/w": fill(2, 3), "b": np.asfortranarray(fill(3, 2)), "c": np.array("x")}
  np.savez_compressed(tmp_path / "a.npz", **want)
  got = read.read(tmp_path / "a.npz")
  assert list(got) == list(want)
  for k, v in want.items():
    np.testing.assert_array_equal(got[k], v)
  np.save(tmp_path / "b.npy", want["b"])
  np.testing.assert_array_equal(read.npy(tmp_path / "b.npy"), want["b"])
  np.testing.assert_array_equal(read.read(tmp_path / "b.npy")["array"], want["b"])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_haiku_pickle(tmp_path, protocol):
  ml_dtypes = pytest.importorskip("ml_dtypes")
  tree = {
    "net/linear": {"w": fill(2, 3).astype(np.float32), "b": np.float32(0.25)},
    "order": np.asfortranarray(fill(3, 2)),
    "low": fill(4).astype(ml_dtypes.bfloat16),
    "steps": 7,
    "pair": (np.arange(3), collections.OrderedDict(x=np.array([True]))),
  }
  path = tmp_path / "a.pkl"
  path.write_bytes(pickle.dumps(tree, protocol=protocol))
  got = read.read(path)
  names = ["net/linear/w", "net/linear/b", "order", "low", "pair/0", "pair/1/x"]
  assert list(got) == names
  np.testing.assert_array_equal(got["net/linear/w"], tree["net/linear"]["w"])
  assert got["net/linear/b"] == np.float32(0.25)
  np.testing.assert_array_equal(got["order"], tree["order"])
  np.testing.assert_array_equal(got["low"], chopped(fill(4)))
  np.testing.assert_array_equal(got["pair/0"], [0, 1, 2])


class Canary:
  def __init__(self, call, *args):
    self.call, self.args = call, args

  def __reduce__(self):
    return self.call, self.args


def in_torch(data: bytes) -> bytes:
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as z:
    z.writestr("archive/data.pkl", data)
  return out.getvalue()


LIVE = {
  "system": Canary(os.system, "touch canary"),
  "exec": Canary(exec, "open('canary', 'w').close()"),
  "eval": Canary(eval, "open('canary', 'w').close()"),
  "touch": Canary(pathlib.Path.touch, pathlib.PosixPath("canary")),
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("wrap", [bytes, in_torch], ids=["pickle", "torch"])
@pytest.mark.parametrize("name", LIVE)
def test_code_is_never_run(tmp_path, monkeypatch, name, wrap, protocol):
  monkeypatch.chdir(tmp_path)
  if protocol < 4 and name == "touch":
    name = "system"  # a method has no name in the older protocols
  data = pickle.dumps({"w": fill(2), "bad": LIVE[name]}, protocol=protocol)
  pickle.loads(data)
  canary = tmp_path / "canary"
  assert canary.exists(), "the trap is not live"
  canary.unlink()
  (tmp_path / "a.pth").write_bytes(wrap(data))
  with pytest.raises(UserError, match=r"could be code|no known format") as error:
    read.read(tmp_path / "a.pth")
  assert "\n" not in str(error.value)
  assert not canary.exists()


def test_a_getattr_chain_and_state_of_functions_are_refused(tmp_path):
  path = tmp_path / "a.pkl"
  # GLOBAL of a dotted name, then BUILD on what a pickle may name.
  dotted = b"\x80\x04\x8c\x05numpy\x8c\x0andarray.view\x93."
  build = b"\x80\x02cnumpy\ndtype\n}X\x03\x00\x00\x00_fnK\x01sb."
  for data in (dotted, build, b"\x80\x02\x82\x01."):
    path.write_bytes(data)
    with pytest.raises(UserError):
      read.read(path)


def test_object_arrays_are_refused(tmp_path):
  objects = np.array([{"a": 1}], object)
  np.save(tmp_path / "a.npy", objects, allow_pickle=True)
  np.savez(tmp_path / "b.npz", x=objects)
  (tmp_path / "c.pkl").write_bytes(pickle.dumps({"x": objects}))
  for name in ("a.npy", "b.npz", "c.pkl"):
    with pytest.raises(UserError, match="can carry code"):
      read.read(tmp_path / name)


def test_jax_arrays_are_refused_by_name(tmp_path):
  data = b"\x80\x02cjax._src.array\n_reconstruct_array\n)R."
  (tmp_path / "a.pkl").write_bytes(data)
  with pytest.raises(UserError, match="save numpy ones"):
    read.read(tmp_path / "a.pkl")


def _npy_header(shape, descr="<f4"):
  head = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode()
  head += b" " * (117 - len(head)) + b"\n"
  return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head


def _safetensors(header, length=None):
  text = json.dumps(header).encode()
  return struct.pack("<Q", len(text) if length is None else length) + text


def _zip_bomb():
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
    z.writestr("a.npy", _npy_header((1 << 25,)) + bytes(1 << 27))
  return out.getvalue()


def _tensor(size, shape, stride, offset=0):
  """A torch zip with one tensor of a storage of `size` float32."""
  text = lambda s: b"X" + struct.pack("<I", len(s)) + s.encode()
  number = lambda n: b"\x8a\x08" + struct.pack("<q", n)
  numbers = lambda ns: b"(" + b"".join(map(number, ns)) + b"t"
  storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0")
  storage += text("cpu") + number(size) + b"tQ"
  args = b"(" + storage + number(offset) + numbers(shape) + numbers(stride)
  args += b"\x89" + b"N" + b"t"
  data = b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + args
  out = io.BytesIO()
  with zipfile.ZipFile(out, "w") as z:
    z.writestr("a/data.pkl", data + b"Rs.")
    z.writestr("a/data/0", np.arange(4, dtype=np.float32).tobytes())
  return out.getvalue()


def test_handmade_torch_file_is_right(tmp_path):
  (tmp_path / "a.pth").write_bytes(_tensor(4, (2, 2), (1, 2)))
  np.testing.assert_array_equal(read.read(tmp_path / "a.pth")["w"], [[0, 2], [1, 3]])


_ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
BOMBS = {
  "npy of 7 TiB": _npy_header((7 << 38,)),
  "npy of many axes": _npy_header((1 << 40, 1 << 40, 0, 1 << 40)[:2]),
  "npy of long strings": _npy_header((1,), "<U2147483647"),
  "npz of zeros": _zip_bomb(),
  "safetensors header of 2^60": _safetensors({}, 1 << 60),
  "safetensors data outside": _safetensors({"a": _ENTRY}),
  "safetensors of another size": _safetensors({"a": _ENTRY | {"shape": [1 << 50]}})
  + bytes(16),
  "safetensors no object": _safetensors({"a": 1}),
  "torch storage too small": _tensor(1 << 50, (4,), (1,)),
  "torch tensor repeated": _tensor(4, (1 << 20, 1 << 20), (0, 0)),
  "torch tensor outside": _tensor(4, (4,), (1,), offset=1),
  "torch negative stride": _tensor(4, (2, 2), (-1, 1)),
  "pickle memo index": b"\x80\x02]r\xff\xff\xff\x7f.",
  "pickle long bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b".",
  "pickle long bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 38) + b".",
  "pickle frame": b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b".",
  "pickle deep": b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".",
  "pickle cut": pickle.dumps({"w": fill(9)})[:-20],
  "zip cut": in_torch(pickle.dumps({}))[:-30],
  "text": b"<html>not found</html>",
  "empty": b"",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_from_the_header(tmp_path, name):
  path = tmp_path / "a.bin"
  path.write_bytes(BOMBS[name])
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kB
  with pytest.raises(UserError) as error:
    read.read(path)
  assert "\n" not in str(error.value)
  grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
  assert grown < 200_000, f"{name}: memory grew by {grown} kB"


@pytest.mark.parametrize(
  "name", ["torch_zip.pth", "torch_legacy.pth", "a.npz", "a.npy"]
)
def test_flipped_and_missing_bytes_give_arrays_or_one_line(tmp_path, name):
  if name in ("a.npz", "a.npy"):
    save = np.savez_compressed if name == "a.npz" else np.save
    save(tmp_path / name, fill(9))
    data = (tmp_path / name).read_bytes()
  else:
    data = (GOLDEN / name).read_bytes()
  rng, refused = np.random.default_rng(0), []
  for _ in range(150):
    bad = bytearray(data)
    if rng.random() < 0.2:
      del bad[rng.integers(len(bad)) :]
    else:
      for at in rng.integers(len(bad), size=3):
        bad[at] = rng.integers(256)
    (tmp_path / name).write_bytes(bad)
    try:
      read.read(tmp_path / name)
    except UserError as error:
      refused.append(str(error))
  assert len(refused) > 20
  assert not any("\n" in text for text in refused)


def test_missing_and_nothing_inside(tmp_path):
  with pytest.raises(UserError, match="missing"):
    read.read(tmp_path / "none.pth")
  (tmp_path / "a.pkl").write_bytes(pickle.dumps({"epoch": 3}))
  with pytest.raises(UserError, match="holds no array"):
    read.read(tmp_path / "a.pkl")
  (tmp_path / "a.pkl").write_bytes(pickle.dumps({"a": {"b": fill(1)}, "a/b": fill(1)}))
  with pytest.raises(UserError, match="two arrays"):
    read.read(tmp_path / "a.pkl")


def test_without_prefix():
  arrays = {"module.a": fill(1), "b": fill(2)}
  assert list(read.without_prefix(arrays)) == ["a", "b"]
  with pytest.raises(UserError, match="with and without"):
    read.without_prefix({"module.a": fill(1), "a": fill(1)})
