"""Clusters features: python -m launch.cluster --features SHARDS --out TREE

Hierarchical k-means (vlp_jax/kmeans.py) on a prepared data set of clip features, as
launch.extract makes it, a directory of .npy or .npz files, or HDF5. --out is the tree,
an .npz; a run that was stopped goes on from TREE.state.npz, a finished one only says
what it found. --assign FILE writes the ids of all features: `tokens` [N] int32 in the
order of the data, and `keys` and `starts` of its records.

Memory: --chunk_mb (twice on accelerators) and up to as much again for a sample of each
node; 4 bytes a feature; about 6 x branching^depth x width x 4 bytes for the last level.
The features are read from disk, (passes + 1) x depth + 1 times. The default, 20,736
leaves, takes about 1.6 GB for 500,000 features of width 1024.
"""

import os
import sys

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("features", None, "Data set, directory or file of features.")
flags.DEFINE_string("out", None, "The tree, an .npz file.")
flags.DEFINE_string("split", "", "Of a data set; default train, or all.")
flags.DEFINE_integer("network", 0, "Of a data set that holds features of several.")
flags.DEFINE_integer("branching", 12, "Children of a node.")
flags.DEFINE_integer("depth", 4, "Levels; 1 is flat k-means.")
flags.DEFINE_integer("passes", 4, "Over the features, at each level.")
flags.DEFINE_integer("batch", 1024, "Features of an update of a node.")
flags.DEFINE_enum("init", "kmeans++", ["kmeans++", "random"], "First centroids.")
flags.DEFINE_bool("cosine", False, "Compare directions.")
flags.DEFINE_integer("seed", 0, "Of order and first centroids.")
flags.DEFINE_float("chunk_mb", 256, "Size of the buffers.")
flags.DEFINE_string("assign", None, "File for the ids of all features, an .npz.")
flags.DEFINE_string("plot", None, "Picture of the cluster sizes, a .png.")
flags.DEFINE_bool("quiet", False, "No progress bar.")


def _fit(features, state, where):
  from data_pipelines import progress
  from vlp_jax import kmeans
  from vlp_jax.errors import UserError

  names = ("branching", "depth", "passes", "batch", "init", "cosine", "seed")
  names += ("chunk_mb",)
  given = {k: FLAGS[k].value for k in names}
  unit = 1000  # the bar counts thousandths: how many rows there are shows in pass one
  with progress.bar(f"cluster {where}", unit, quiet=FLAGS.quiet) as update:
    show = lambda done, total: update(int(unit * done / total) if total else 0)
    try:
      return kmeans.fit(
        features, **given, save=state, identity=features.identity, progress=show
      )
    except OSError as error:
      raise UserError(f"{state}: {error.strerror or error}.") from None


def _say(tree, counts, inertia):
  from vlp_jax import kmeans

  real = counts[counts > 0]
  print(f"tree {FLAGS.out}: {tree.branching}^{tree.depth} = {tree.size} leaves")
  print(f"  of width {tree.width}, {len(real)} used; sha256 {tree.digest}")
  if inertia is not None:
    print(f"  mean squared distance to the leaf {inertia:.6g}")
  print(f"  features {counts.sum()}, perplexity {kmeans.perplexity(counts):.1f}")
  edge, last = 1, int(counts.max())
  while edge <= last:
    inside = int(((counts >= edge) & (counts < 2 * edge)).sum())
    print(f"  leaves of {edge:>7} to {2 * edge - 1:>7} features: {inside}")
    edge *= 2


def _plot(counts):
  import matplotlib

  matplotlib.use("Agg")
  from matplotlib import pyplot

  figure, axis = pyplot.subplots(figsize=(6, 3))
  axis.plot(sorted(counts[counts > 0], reverse=True))
  axis.set(xlabel="leaf, largest first", ylabel="features", yscale="log")
  figure.savefig(FLAGS.plot, dpi=120, bbox_inches="tight")
  pyplot.close(figure)


def _assign(features, tree):
  import numpy as np

  from vlp_jax import cluster_tree

  keys, tokens = [], []
  for key, x in features.items():
    keys.append(key)
    tokens.append(tree.assign(x))
  starts = np.cumsum([0, *map(len, tokens)])
  arrays = dict(keys=np.array(keys), starts=starts, tokens=np.concatenate(tokens))
  digest = np.frombuffer(bytes.fromhex(tree.digest), np.uint8)
  cluster_tree.write_npz(FLAGS.assign, arrays | dict(tree_digest=digest))
  return arrays["tokens"]


def main():
  command.require("features", "out")
  import numpy as np

  from data_pipelines.readers import feature_sets
  from vlp_jax import cluster_tree, distributed, workdir
  from vlp_jax.errors import UserError

  distributed.start()
  if not FLAGS.out.endswith(".npz"):
    raise UserError(f"--out {FLAGS.out}: the tree is an .npz file.")
  given = dict(split=FLAGS.split, network=FLAGS.network, seed=FLAGS.seed)
  features = feature_sets.Features(FLAGS.features, **given)
  inertia, tokens = None, None
  if workdir.from_first(os.path.exists(FLAGS.out)):
    tree = cluster_tree.load(FLAGS.out)
    same = tree.branching, tree.depth, tree.width, tree.cosine
    wanted = FLAGS.branching, FLAGS.depth, features.width, FLAGS.cosine
    if same != wanted:
      raise UserError(
        f"{FLAGS.out} is there with (branching, depth, width, cosine) {same}; the "
        f"command says {wanted}. Give another --out, or remove it."
      )
    print(f"{FLAGS.out} is done.", file=sys.stderr)
  else:
    state = f"{FLAGS.out.removesuffix('.npz')}.state.npz"
    found = _fit(features, state, FLAGS.features)
    tree, inertia, tokens = found.tree, found.inertia, found.ids
    if distributed.first():
      tree.save(FLAGS.out)
      os.remove(state)
  if not distributed.first():
    return
  if features.lost:
    print(f"{len(features.lost)} damaged records were left out.", file=sys.stderr)
  if FLAGS.assign:
    tokens = _assign(features, tree)
  if tokens is None:
    print(f"sha256 {tree.digest}")
    return
  counts = np.bincount(tokens, minlength=tree.size)
  _say(tree, counts, inertia)
  if FLAGS.plot:
    _plot(counts)


if __name__ == "__main__":
  command.main(main)
