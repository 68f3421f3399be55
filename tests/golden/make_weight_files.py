"""Makes the weight files that `tests/formats/test_formats_read.py` opens.

  python tests/golden/make_weight_files.py torch        (torch 2.13.0, numpy)
  python tests/golden/make_weight_files.py tensorflow   (tensorflow 2.21)

Values are 0.02 * sin(0, 1, 2, ...) in the order of the elements.
"""

import argparse
import collections
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def fill(*shape):
  return (0.02 * np.sin(np.arange(np.prod(shape)))).reshape(shape)


def torch_files():
  import torch

  def tensor(*shape, dtype=torch.float32):
    return torch.from_numpy(fill(*shape)).to(dtype)

  tied = tensor(6, 4)
  state = collections.OrderedDict(
    {
      "module.embed.weight": tied,
      "module.head.weight": tied,
      "module.linear.weight": tensor(3, 4).t(),
      "module.half": tensor(5, dtype=torch.float16),
      "module.bfloat": tensor(5, dtype=torch.bfloat16),
      "module.ids": torch.arange(8).expand(1, -1),
      "module.repeated": torch.arange(3, dtype=torch.int32).expand(2, 3),
      "module.mask": torch.tensor([True, False]),
      "module.steps": torch.tensor(7),
      "module.empty": torch.zeros(0, 3),
      "module.part": tensor(10)[3:7],
      "module.parameter": torch.nn.Parameter(tensor(2, 2)),
    }
  )
  state._metadata = {"": {"version": 1}}
  checkpoint = {
    "epoch": 3,
    "state_dict": state,
    "args": argparse.Namespace(lr=1e-3),
    "best": np.float32(0.5),
    "optimizer": {"state": {0: {"exp_avg": tensor(2)}}},
  }
  torch.save(checkpoint, HERE / "torch_zip.pth")
  old = {"_use_new_zipfile_serialization": False}
  torch.save(checkpoint, HERE / "torch_legacy.pth", **old)


def tensorflow_files():
  import tensorflow as tf

  names = ["bert/encoder/kernel", "bert/encoder/bias", "half", "steps", "title"]
  values = [
    tf.constant(fill(3, 4), tf.float32),
    tf.constant(fill(4), tf.bfloat16),
    tf.constant(fill(5), tf.float16),
    tf.constant(7, tf.int64),
    tf.constant(["left out"]),
  ]
  # Enough names of a common beginning for several entries between restarts.
  names += [f"layer_{i:02d}/scale" for i in range(40)]
  values += [tf.constant([float(i)]) for i in range(40)]
  blank = [""] * len(names)
  tf.raw_ops.SaveV2(
    prefix=str(HERE / "tf_bundle"),
    tensor_names=names,
    shape_and_slices=blank,
    tensors=values,
  )


if __name__ == "__main__":
  {"torch": torch_files, "tensorflow": tensorflow_files}[sys.argv[1]]()
