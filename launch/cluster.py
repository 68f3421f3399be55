"""Clusters features: python -m launch.cluster --features SHARDS --out TREE

Hierarchical k-means (vlp_jax/kmeans.py) on a prepared data set of clip features, as
launch.extract makes it, a directory of .npy or .npz files, or HDF5. --out is the tree,
an .npz; a run that was stopped goes on from TREE.state.npz, a finished one only says
what it found: of the same features and flags, else it is refused. --assign FILE writes
the ids of all features: `tokens` [N] int32 in the order of the data, and `keys` and
`starts` of its records. --tree instead of --out sends features to a tree that is there,
whatever it was made of.

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
SETTINGS = ("branching", "depth", "passes", "batch", "init", "cosine", "seed")
SETTINGS += ("chunk_mb",)
flags.DEFINE_string("features", None, "Data set, directory or file of features.")
flags.DEFINE_string("out", None, "The tree, an .npz file.")
flags.DEFINE_string("tree", None, "Instead of --out, one that is there; with --assign.")
flags.DEFINE_string("split", "", "Of a data set; default train, or all.")
flags.DEFINE_integer("network", 0, "Of a data set that holds features of several.")
flags.DEFINE_integer("branching", 12, "Children of a node.")
flags.DEFINE_integer("depth", 4, "Levels; 1 is flat k-means.")
flags.DEFINE_integer("passes", 4, "Over the features, at each level.")
flags.DEFINE_integer("batch", 1024, "Features of an update of a node.")
flags.DEFINE_enum("init", "kmeans++", ["kmeans++", "random"], "First centroids.")
flags.DEFINE_bool("cosine", False, "Compare directions.")
flags.DEFINE_integer("seed", 0, "Of order and first centroids.", lower_bound=0)
flags.DEFINE_float("chunk_mb", 256, "Size of the buffers.")
flags.DEFINE_string("assign", None, "File for the ids of all features, an .npz.")
flags.DEFINE_string("plot", None, "Picture of the cluster sizes, a .png.")
flags.DEFINE_bool("quiet", False, "No progress bar.")


def _origin(features):
  """What decides the tree: settings of the run, width and identity of the features."""
  own = {k: FLAGS[k].value for k in SETTINGS}
  return own | dict(width=features.width, features=features.identity)


def _fit(features, state, where):
  from data_pipelines import progress
  from vlp_jax import kmeans
  from vlp_jax.errors import UserError

  given = {k: FLAGS[k].value for k in SETTINGS}
  unit = 1000  # the bar counts thousandths: how many rows there are shows in pass one
  with progress.bar(f"cluster {where}", unit, quiet=FLAGS.quiet) as update:
    show = lambda done, total: update(int(unit * done / total) if total else 0)
    try:
      return kmeans.fit(
        features, **given, save=state, identity=features.identity, progress=show
      )
    except OSError as error:
      raise UserError(f"{state}: {error.strerror or error}.") from None


def _done(path, features):
  """The tree that is there. Raises: UserError if it is not the one that is wanted."""
  from vlp_jax import cluster_tree
  from vlp_jax.errors import UserError

  tree, differ = cluster_tree.load(path), cluster_tree.differ(path, _origin(features))
  if differ:
    raise UserError(
      f"{path} is there, made of {'; '.join(differ)}. Give another --out, remove it, "
      "or send these features to it with --tree."
    )
  return tree


def _say(path, tree, counts, inertia):
  from vlp_jax import kmeans

  real = counts[counts > 0]
  print(f"tree {path}: {tree.branching}^{tree.depth} = {tree.size} leaves")
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
  command.require("features", *([] if FLAGS.tree else ["out"]))
  import numpy as np

  from data_pipelines.readers import feature_sets
  from vlp_jax import cluster_tree, distributed, workdir
  from vlp_jax.errors import UserError

  distributed.start()
  path = FLAGS.tree or FLAGS.out
  if FLAGS.tree and (FLAGS.out or not FLAGS.assign):
    raise UserError("--tree is given with --assign, and without --out.")
  if not path.endswith(".npz"):
    raise UserError(f"--out {path}: the tree is an .npz file.")
  given = dict(split=FLAGS.split, network=FLAGS.network, seed=FLAGS.seed)
  features = feature_sets.Features(FLAGS.features, **given)
  inertia, tokens = None, None
  if FLAGS.tree:
    tree = cluster_tree.load(path)
  elif workdir.from_first(os.path.exists(path)):
    tree = _done(path, features)
    print(f"{path} is done.", file=sys.stderr)
  else:
    state = f"{path.removesuffix('.npz')}.state.npz"
    found = _fit(features, state, FLAGS.features)
    tree, inertia, tokens = found.tree, found.inertia, found.ids
    if distributed.first():
      tree.save(path, origin=_origin(features))
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
  _say(path, tree, counts, inertia)
  if FLAGS.plot:
    _plot(counts)


if __name__ == "__main__":
  command.main(main)
