"""Hierarchical k-means against scikit-learn: python -m launch.bench.kmeans

One JSON line a case. scikit-learn's MiniBatchKMeans is applied recursively, with the
same branching, batches and passes, without early stopping. Both run in turns in one
process on one pinned core; `cpu_s` are medians of its seconds after a first round that
is not counted (ours compiles in it: `first_s`), `range` the fastest and slowest.
`speedup` is points/s over those of scikit-learn, `inertia_ratio` ours over its.
`--memmap` reads the points from a file, in random order of blocks, and states the
memory beside them; `--ours` leaves the peer out, for sizes that it cannot do.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_integer("points", 50_000, "N.")
flags.DEFINE_integer("dim", 256, "D.")
flags.DEFINE_integer("branching", 12, "k.")
flags.DEFINE_integer("depth", 3, "Levels; 1 is flat k-means.")
flags.DEFINE_integer("passes", 4, "Over the points, a level.")
flags.DEFINE_integer("batch", 1024, "Points of an update of a node.")
flags.DEFINE_integer("rounds", 3, "Of the two in turns.")
flags.DEFINE_float("chunk_mb", 256, "Of our buffers.")
flags.DEFINE_bool("memmap", False, "Points in a file, not in memory.")
flags.DEFINE_bool("ours", False, "Without scikit-learn.")
flags.DEFINE_bool("here", False, "Run here, not in a pinned child.")


def points(n: int, dim: int, seed: int, out=None):
  """[n, dim] float32 around 4,000 places around 100 others: clusters at two scales."""
  import numpy as np

  rng = np.random.default_rng(seed)
  coarse = rng.normal(size=(100, dim)).astype(np.float32)
  fine = coarse[np.arange(4000) % 100]
  fine += 0.5 * rng.normal(size=fine.shape).astype(np.float32)
  out = np.empty((n, dim), np.float32) if out is None else out
  for i in range(0, n, 10_000):
    of = rng.integers(0, len(fine), min(10_000, n - i))
    noise = rng.standard_normal((len(of), dim), dtype=np.float32)
    out[i : i + len(of)] = fine[of] + 0.5 * noise
  return out


def peer(x, branching: int, depth: int, passes: int, batch: int, seed: int) -> float:
  """Mean squared distance after scikit-learn's k-means in k-means."""
  import numpy as np
  from sklearn import cluster

  total, todo = 0.0, [(np.arange(len(x)), 0)]
  while todo:
    rows, level = todo.pop()
    own = x[rows]
    if len(own) <= branching:
      continue  # each point is a leaf
    model = cluster.MiniBatchKMeans(
      branching,
      batch_size=batch,
      max_iter=passes,
      max_no_improvement=None,
      n_init=1,
      random_state=seed,
    )
    label = model.fit(own).labels_
    if level + 1 == depth:
      total += float(np.square(own - model.cluster_centers_[label]).sum())
    else:
      todo += [(rows[label == j], level + 1) for j in range(branching)]
  return total / len(x)


def timed(fn):
  """(value, seconds of this process on the core)."""
  begin = time.process_time()
  value = fn()
  return value, time.process_time() - begin


def case() -> dict:
  import jax
  import numpy as np

  from vlp_jax import kmeans, sharding

  where = tempfile.TemporaryDirectory() if FLAGS.memmap else None
  if where:
    path = os.path.join(where.name, "points.npy")
    shape = FLAGS.points, FLAGS.dim
    points(*shape, 0, np.lib.format.open_memmap(path, "w+", np.float32, shape))
    x = np.load(path, mmap_mode="r")
  else:
    x = points(FLAGS.points, FLAGS.dim, 0)
  same = dict(branching=FLAGS.branching, depth=FLAGS.depth, seed=0)
  same |= dict(passes=FLAGS.passes, batch=FLAGS.batch)
  mesh = sharding.mesh(None, jax.devices()[:1])
  ours = lambda: kmeans.fit([x], mesh=mesh, chunk_mb=FLAGS.chunk_mb, **same)
  resident = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
  found, first_s = timed(ours)
  out = dict(bench="kmeans", sklearn=not FLAGS.ours, first_s=round(first_s, 2), **same)
  out |= dict(points=len(x), dim=FLAGS.dim, leaves=int(found.tree.leaves_used().sum()))
  # Pages of a mapped file count as resident, but are given back when asked for.
  mapped = x.nbytes / 2**20 if FLAGS.memmap else 0
  out |= dict(peak_mb=round(resident()), features_mb=round(x.nbytes / 2**20))
  out |= dict(peak_less_mapped_mb=round(resident() - mapped))
  took = {"ours": [], "sklearn": []}
  inertia = {}
  for _ in range(FLAGS.rounds):
    fit, spent = timed(ours)
    took["ours"].append(spent)
    inertia["ours"] = fit.inertia
    if not FLAGS.ours:
      with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of nodes with fewer distinct points
        inertia["sklearn"], spent = timed(lambda: peer(x, **same))
      took["sklearn"].append(spent)
  took = {k: v for k, v in took.items() if v}
  median = {k: statistics.median(v) for k, v in took.items()}
  out["cpu_s"] = {k: round(v, 2) for k, v in median.items()}
  out["range"] = {k: [round(min(v), 2), round(max(v), 2)] for k, v in took.items()}
  out["points_s"] = {k: round(len(x) / v) for k, v in median.items()}
  out["inertia"] = {k: round(v, 4) for k, v in inertia.items()}
  if not FLAGS.ours:
    out["speedup"] = round(median["sklearn"] / median["ours"], 2)
    out["inertia_ratio"] = round(inertia["ours"] / inertia["sklearn"], 4)
  if where:
    where.cleanup()
  return out


def main():
  if FLAGS.here:
    print(json.dumps(case()), flush=True)
    return
  env = os.environ | {"JAX_PLATFORMS": "cpu", "OMP_NUM_THREADS": "1"}
  env |= {"OPENBLAS_NUM_THREADS": "1"}
  core = str(min(os.sched_getaffinity(0)))
  args = ["taskset", "-c", core, sys.executable, "-m", __spec__.name, *sys.argv[1:]]
  subprocess.run([*args, "--here"], env=env, check=True)


if __name__ == "__main__":
  command.main(main)
