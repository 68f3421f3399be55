"""A training run in a process of its own, to be killed, blocked or doubled.

python -m tests.faults.child JSON, with workdir, kind ("toy", "uniter", "config"), ...
"""

import json
import sys
import time


def _slow_toys(delay):
  from tests import toy
  from vlp_jax import resolve, sources

  real = resolve.module
  toy.VARIANTS = {"mu": {"dropout": 0.1}}
  resolve.module = lambda place, name: toy if name == "toy" else real(place, name)

  class Slow(sources.Cycle):
    def __next__(self):
      time.sleep(delay)
      return super().__next__()

  config = {
    "model": {"name": "toy", "variant": "mu"},
    "tasks": {
      "one": {"objective": "toy:classify", "weight": 2},
      "two": {"objective": "toy:classify", "coef": 0.5},
    },
    "optim": {"name": "adam", "lr": 1e-2, "ema": 0.99},
    "total_steps": 60,
    "log_every": 2,
    "checkpoint": {"every": 6},
    "micro": 2,
    "tensorboard": False,
  }
  return config, Slow(toy.batches(7))


def _uniter():
  import numpy as np

  rng = np.random.default_rng(0)
  rows = 8
  batch = {
    "text_ids": rng.integers(5, 40, (rows, 6)).astype(np.int32),
    "text_mask": np.arange(6) < rng.integers(3, 7, (rows, 1)),
    "regions_features": rng.random((rows, 4, 16), np.float32),
    "regions_boxes": rng.random((rows, 4, 7), np.float32),
    "regions_mask": np.ones((rows, 4), bool),
    "example_id": np.arange(rows, dtype=np.int32),
    "example_mask": np.ones(rows, bool),
    "group_id": np.arange(rows, dtype=np.int32),
  }
  config = {
    "model": {"name": "uniter", "variant": "mu"},
    "tasks": {"mlm": {"objective": "masked:mlm"}},
    "vocab": dict(size=40, cls_id=1, sep_id=2, mask_id=3, special_ids=(0, 1, 2, 3, 4)),
    "optim": {"name": "adamw", "lr": 1e-3, "clip": 1.0},
    "total_steps": 10,
    "log_every": 5,
    "checkpoint": {"every": 5},
  }
  return config, [batch]


def main(given):
  for name in given.get("blocked", ()):
    sys.modules[name] = None  # as on a machine without it
  import jax

  from vlp_jax import distributed, train

  jax.config.update("jax_platforms", "cpu")
  distributed.start()
  if given["kind"] == "toy":
    config, data = _slow_toys(given.get("delay", 0.0))
  elif given["kind"] == "uniter":
    config, data = _uniter()
  else:
    from launch import command

    config, data = command.config_of(given["config"]), None
    command.override(config, given.get("changes", []))
  out = train.run(config, given["workdir"], data=data)
  if given["kind"] == "uniter":
    from vlp_jax import infer

    model = infer.Model(train.Run(config, data=data).model, out.state.variables)
    made = model(**{k: data[0][k] for k in ("text_ids", "text_mask")})
    assert made["pooled"].shape == (8, 64)
  print("done", int(out.state.step), flush=True)


if __name__ == "__main__":
  main(json.loads(sys.argv[1]))
