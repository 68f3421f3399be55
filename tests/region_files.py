"""Region files of every published format, made byte by byte from the same four images.

Nothing here comes from `data_pipelines`: TSV and JSON are text and base64, msgpack maps
are spelt as msgpack_numpy spells them, LMDB and HDF5 files are made by their libraries.
`write(kind, root)` gives (path, names of the images in that format).
"""

import base64
import importlib.util
import io
import json
import pickle
import struct
import zipfile
from typing import NamedTuple

import numpy as np
import pytest

DIM, CLASSES = 16, 11


class Picture(NamedTuple):
  """What is in an image; ids of objects and attributes from 1 on."""

  number: int
  width: int
  height: int
  boxes: np.ndarray  # [n, 4] pixels
  features: np.ndarray  # [n, DIM] float32, exact in float16
  objects: np.ndarray
  attributes: np.ndarray
  conf: np.ndarray  # descending
  probs: np.ndarray  # [n, CLASSES]


def _picture(k: int) -> Picture:
  rng = np.random.RandomState(k)
  boxes = [[20, 10, 120, 60], [0, 0, 200, 100], [50, 25, 100, 75]]  # the whole is one
  objects = rng.permutation(np.arange(1, CLASSES))[:3]
  conf = np.array([0.75, 0.5, 0.25])
  probs = np.repeat((1 - conf)[:, None] / (CLASSES - 1), CLASSES, axis=1)
  probs[np.arange(3), objects] = conf
  return Picture(
    1042 + k,
    200,
    100,
    np.array(boxes, np.float32),
    rng.randint(0, 64, (3, DIM)).astype(np.float32) / 16,
    objects,
    rng.randint(1, 5, 3),
    conf.astype(np.float32),
    probs.astype(np.float32),
  )


PICTURES = tuple(_picture(k) for k in range(4))
CAPTIONS = ("a red ball lies here", "the blue box is big", "no ring at all", "a cat")


def b64(array, kind="<f4") -> str:
  """Base64 of an array's bytes."""
  return base64.b64encode(np.asarray(array).astype(kind).tobytes()).decode()


def bua_tsv(root):
  """image_id, image_w, image_h, num_boxes, boxes, features; in two files."""
  for part in (0, 1):
    rows = [
      [p.number, p.width, p.height, 3, b64(p.boxes), b64(p.features)]
      for p in PICTURES[part::2]
    ]
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
    (root / f"trainval.tsv.{part}").write_text(text)
  return root, [str(p.number) for p in PICTURES]


def lxmert_tsv(root):
  """The height before the width, ids without a background."""
  names = [f"COCO_val2014_{p.number:012d}" for p in PICTURES]
  with (root / "val_obj36.tsv").open("w") as f:
    for name, p in zip(names, PICTURES, strict=True):
      ids = [b64(p.objects - 1, "<i8"), b64(p.conf), b64(p.attributes - 1, "<i8")]
      row = [name, p.height, p.width, *ids, b64(p.conf / 2), 3, b64(p.boxes)]
      f.write("\t".join(map(str, [*row, b64(p.features)])) + "\n")
  return root / "val_obj36.tsv", names


def lmdb_write(path, entries):
  """An LMDB directory of {bytes: bytes}; skips the test without the package."""
  lmdb = pytest.importorskip("lmdb", reason="needs requirements.txt")

  path.mkdir(parents=True)
  with lmdb.open(str(path), map_size=1 << 22) as env, env.begin(write=True) as txn:
    for key, value in entries.items():
      txn.put(key, value)


def nd(array, kind="<f2") -> dict:
  """An array as msgpack_numpy writes it."""
  array = np.asarray(array)
  data = array.astype(kind).tobytes()
  shape = list(array.shape)
  return {b"nd": True, b"type": kind, b"kind": b"", b"shape": shape, b"data": data}


def _uniter(p):
  w, h = p.width, p.height
  x1, y1, x2, y2 = p.boxes.T / np.array([[w], [h], [w], [h]])
  return {
    "features": p.features,
    "norm_bb": np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1], axis=1),
    "conf": p.conf,
    "soft_labels": p.probs,
  }


def padded(arrays):
  """A fourth region of low confidence, which the count cuts off."""
  extra = {k: np.concatenate([v, v[-1:]]) for k, v in arrays.items()}
  extra["conf"][-1] = 0.125
  return extra


def _npz(arrays) -> bytes:
  out = io.BytesIO()
  wide = {k: v.astype(np.float16) for k, v in arrays.items()}
  np.savez_compressed(out, allow_pickle=np.True_, **wide)  # as the published writer
  return out.getvalue()


def uniter_lmdb(root, compressed=False, counted=True):
  """feat_th0.2_max100_min3, and its counts beside it if asked for."""
  import msgpack

  names = [f"coco_val2014_{p.number:012d}.npz" for p in PICTURES]
  entries = {b"__keys__": json.dumps(names).encode()}
  for name, p in zip(names, PICTURES, strict=True):
    x = padded(_uniter(p))
    if compressed:
      entries[name.encode()] = _npz(x)
    else:
      entries[name.encode()] = msgpack.packb(
        {k: nd(v) for k, v in x.items()}, use_bin_type=True
      )
  ending = "_compressed" if compressed else ""
  lmdb_write(root / f"feat_th0.2_max100_min3{ending}", entries)
  if counted:
    counts = json.dumps(dict.fromkeys(names, 3))
    (root / "nbb_th0.2_max100_min3.json").write_text(counts)
  return root, names


def vilbert_lmdb(root, encoded=False):
  """Pickled dicts, with arrays or with base64 as in the older repository."""
  entries, keys = {}, [str(p.number).encode() for p in PICTURES]
  for key, p in zip(keys, PICTURES, strict=True):
    wrap = (lambda x: base64.b64encode(x.tobytes())) if encoded else (lambda x: x)
    value = {"image_id": key.decode(), "image_h": p.height, "image_w": p.width}
    value |= {"num_boxes": 3, "boxes": wrap(p.boxes), "features": wrap(p.features)}
    entries[key] = pickle.dumps(value, protocol=2 if encoded else 4)
  entries[b"keys"] = pickle.dumps(keys)
  lmdb_write(root / "feats.lmdb", entries)
  return root / "feats.lmdb", [k.decode() for k in keys]


def captions_lmdb(root):
  """Conceptual Captions for ViLBERT: tensorpack's records in msgpack."""
  import msgpack

  keys, entries = [f"{k:08d}".encode() for k in range(4)], {}
  for key, p, text in zip(keys, PICTURES, CAPTIONS, strict=True):
    record = [nd(p.features, "<f4"), nd(p.probs, "<f4"), nd(p.boxes, "<f4"), 3]
    record += [p.height, p.width, str(p.number), text]
    entries[key] = msgpack.packb(record, use_bin_type=True)
  entries[b"__keys__"] = msgpack.packb(keys, use_bin_type=True)
  lmdb_write(root / "training_feat_all.lmdb", entries)
  return root / "training_feat_all.lmdb", [k.decode() for k in keys]


def oscar_tsv(root, indexed=True):
  """features.tsv with .lineidx, and predictions.tsv."""
  offsets, at, predictions = [], 0, ""
  with (root / "features.tsv").open("wb") as f:
    for p in PICTURES:
      w, h = p.width, p.height
      x1, y1, x2, y2 = p.boxes.T
      box = np.stack([x1 / w, y1 / h, x2 / w, y2 / h, (x2 - x1) / w, (y2 - y1) / h], 1)
      both = b64(np.concatenate([p.features, box], axis=1))
      line = f"{p.number}\t3\t{both}\n".encode()
      offsets.append(at)
      at += f.write(line)
      objects = [
        {"class": f"thing{o}", "rect": b.tolist(), "conf": float(c)}
        for o, b, c in zip(p.objects, p.boxes, p.conf, strict=True)
      ]
      told = {"image_h": h, "image_w": w, "objects": objects}
      predictions += f"{p.number}\t{json.dumps(told)}\n"
  (root / "predictions.tsv").write_text(predictions)
  (root / "objects.txt").write_text(
    "".join(f"thing{k},alias{k}\n" for k in range(1, 11))
  )
  if indexed:
    (root / "features.lineidx").write_text("".join(f"{n}\n" for n in offsets))
    numbers = {str(p.number): k for k, p in enumerate(PICTURES)}
    (root / "imageid2idx.json").write_text(json.dumps(numbers))
  return root, [str(p.number) for p in PICTURES]


def vlp_h5(root):
  """Features and classes by the last three digits, boxes in one file."""
  import h5py

  with h5py.File(root / "coco_detection_vg_bbox.h5", "w") as boxes:
    for p in PICTURES:
      extra = np.stack([p.conf, p.objects], axis=1).astype(np.float32)
      boxes[str(p.number)] = np.concatenate([p.boxes, extra], axis=1)
      ending = str(p.number)[-3:]
      for kind, value in (("feat", p.features), ("cls", p.probs)):
        with h5py.File(root / f"coco_detection_vg_{kind}{ending}.h5", "w") as f:
          f[str(p.number)] = value
  return root, [str(p.number) for p in PICTURES]


def vlbert_json(root):
  """A zip of JSONs, and one outside of it; rows upside down, to be sorted."""
  with zipfile.ZipFile(root / "train_frcnn.zip", "w") as z:
    for p in PICTURES:
      x = {"image_w": p.width, "image_h": p.height, "num_boxes": 3}
      x |= {"boxes": b64(p.boxes[::-1]), "features": b64(p.features[::-1])}
      text = json.dumps(x | {"classes": b64(p.probs[::-1])})
      if p.number == 1042:
        (root / "00001042.json").write_text(text)
      else:
        z.writestr(f"train/{p.number:08d}.json", text)
  return root, [str(p.number) for p in PICTURES]


def boxes_npz(root):
  """torchvision's names in even files, Detectron2's in odd ones."""
  for p in PICTURES:
    own = {"boxes": p.boxes, "scores": p.conf, "labels": p.objects}
    if p.number % 2:
      own = {"pred_boxes": p.boxes, "scores": p.conf, "pred_classes": p.objects - 1}
    size = np.array([p.height, p.width])
    np.savez(root / f"{p.number}.npz", features=p.features, image_size=size, **own)
  return root, [str(p.number) for p in PICTURES]


def uniter_npz(p) -> bytes:
  """The .npz of one picture as UNITER extracts it."""
  return _npz(_uniter(p))


def npz(root):
  """UNITER's extracted files."""
  for p in PICTURES:
    name = f"coco_val2014_{p.number:012d}.npz"
    (root / name).write_bytes(uniter_npz(p))
  return root, [f"coco_val2014_{p.number:012d}" for p in PICTURES]


def npy(root):
  """features/<image>.npy and boxes/<image>.npy in pixels, headers by hand."""
  for folder in ("features", "boxes"):
    (root / folder).mkdir()
  for p in PICTURES:
    for folder, value in (("features", p.features), ("boxes", p.boxes)):
      head = {"descr": "<f4", "fortran_order": False, "shape": value.shape}
      head = str(head).encode().ljust(117) + b"\n"
      data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
      (root / folder / f"{p.number}.npy").write_bytes(data + value.tobytes())
  sizes = {str(p.number): [p.width, p.height] for p in PICTURES}
  (root / "sizes.json").write_text(json.dumps(sizes))
  return root, [str(p.number) for p in PICTURES]


FIELDS = ("objects", "attributes", "conf", "attribute_conf", "probs")

# Name of a case -> (format, function, known beside features and boxes).
ALL = ("objects", "conf", "probs")
CASES = {
  "bua_tsv": ("bua_tsv", bua_tsv, ()),
  "lxmert_tsv": ("lxmert_tsv", lxmert_tsv, ("objects", "attributes", "conf")),
  "uniter_lmdb": ("uniter_lmdb", uniter_lmdb, ALL),
  "uniter_lmdb npz": ("uniter_lmdb", lambda r: uniter_lmdb(r, True, False), ALL),
  "vilbert_lmdb": ("vilbert_lmdb", vilbert_lmdb, ()),
  "vilbert_lmdb base64": ("vilbert_lmdb", lambda r: vilbert_lmdb(r, True), ()),
  "vilbert_lmdb captions": ("vilbert_lmdb", captions_lmdb, ALL),
  "oscar_tsv": ("oscar_tsv", oscar_tsv, ("conf",)),
  "oscar_tsv scanned": ("oscar_tsv", lambda r: oscar_tsv(r, False), ("conf",)),
  "vlp_h5": ("vlp_h5", vlp_h5, ALL),
  "vlbert_json": ("vlbert_json", vlbert_json, ALL),
  "boxes_npz": ("boxes_npz", boxes_npz, ("objects", "conf")),
  "npz": ("npz", npz, ALL),
  "npz npy": ("npz", npy, ()),
}


def available() -> list[str]:
  """The cases whose packages are installed."""
  found = importlib.util.find_spec("lmdb") is not None
  return [c for c, (kind, _, _) in CASES.items() if found or "lmdb" not in kind]


def write(case: str, root):
  """(format, path, names, known) of a case written below `root`."""
  kind, fn, known = CASES[case]
  root.mkdir(parents=True, exist_ok=True)
  return kind, *fn(root), known
