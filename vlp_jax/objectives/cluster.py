"""Deep clustering of sound and video: SDC, MDC, CDC and XDC (arXiv 1911.12667).

In turn, `xdc_round` clusters the features of all training clips and `sdc`, `mdc`, `cdc`
or `xdc` train the towers to tell the clusters, by a cross entropy:

  SDC  L = CE(W_v f_v, c_v) + CE(W_a f_a, c_a)      each its own modality's clusters
  MDC  L = SDC + CE(W_va f_v, c_a) + CE(W_av f_a, c_v)
  CDC  L = CE(W_v f_v, c) + CE(W_a f_a, c)          c of [f_v/|f_v|; f_a/|f_a|] joined
  XDC  L = CE(W_v f_v, c_a) + CE(W_a f_a, c_v)      the other modality's clusters only

The labels lie in the state (`clusters`, one int32 an example, -1 before the first round
and for examples that were not in it), so that a restart goes on with the same ones.
"""

import logging
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlp_jax import kmeans, whitening
from vlp_jax.errors import UserError
from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import masking
from vlp_jax.objectives import views as views_lib

log = logging.getLogger(__name__)
COLLECTION, HEADS = "clusters", "cluster_heads_"
LABELS = ("video", "audio", "joint")
OTHERS = ("video_by_audio", "audio_by_video")


def _predict(
  apply, variables, batch, key, *, heads, coefs, balance, views=None, stream="audio"
):
  """Terms of the heads that a system trains; see `sdc` for the arguments."""
  if views is not None:
    view_key, key = jax.random.split(key)
    batch = {**batch, **views_lib.make(batch, view_key, views, stream=stream)}
  rng = masking.drop_rng(key, batch["example_id"])
  out, mutable = apply(variables, batch, rng=rng, train=True)
  terms, aux = {}, {}
  for name, coef in zip(heads, coefs, strict=True):
    tower, of = name.split("_by_")
    if f"{name}_logits" not in out:
      raise KeyError(f"the model has no head {name!r}: set model.heads; {sorted(out)}.")
    table = variables[COLLECTION]
    label = table[of][batch["example_id"]]
    where = label >= 0
    mask = batch.get("video_mask" if tower == "video" else "audio_mask")
    if mask is not None:
      where &= mask.any(-1)
    if "example_mask" in batch:
      where &= batch["example_mask"]
    logits = wide(out[f"{name}_logits"])
    xent = cross_entropy(logits, label)
    weight = table[f"{of}_weight"][jnp.maximum(label, 0)] if balance else 1.0
    terms[name] = Term(*Mean.of(xent * weight, where), coef=coef)
    aux[f"{name}/accuracy"] = Mean.of(logits.argmax(-1) == label, where)
  return terms, aux, mutable


def cross_entropy(logits: jax.Array, label: jax.Array) -> jax.Array:
  """[B] of logits [B, K] and label [B]; labels below 0 count as 0, mask them."""
  return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(label, 0))


def sdc(
  apply,
  variables,
  batch,
  key,
  *,
  towers: Sequence[str] = ("video", "audio"),
  balance: bool = True,
  views: Mapping | None = None,
  stream: views_lib.Stream = "audio",
):
  """Single-modality deep clustering: each tower tells its own clusters.

  Args:
    towers: those that are trained.
    balance: each cluster weighs the same, in place of drawing examples evenly over
      clusters as DeepCluster does.
    views: settings of `objectives.views` for what the model sees of `stream` in place
      of the batch's, as DeepCluster trains on crops; None for the batch as it is.
  """
  heads = [f"{t}_by_{t}" for t in towers]
  given = dict(heads=heads, coefs=[1.0] * len(heads), balance=balance)
  given |= dict(views=views, stream=stream)
  return _predict(apply, variables, batch, key, **given)


def mdc(apply, variables, batch, key, *, cross: float = 1.0, balance: bool = True):
  """Multi-head deep clustering: both labellings for both towers; cross=0 is SDC."""
  heads = ("video_by_video", "audio_by_audio", *OTHERS)
  given = dict(heads=heads, coefs=[1.0, 1.0, cross, cross], balance=balance)
  return _predict(apply, variables, batch, key, **given)


def cdc(apply, variables, batch, key, *, balance: bool = True):
  """Concatenation deep clustering: both towers tell the joint clusters."""
  heads = ("video_by_joint", "audio_by_joint")
  given = dict(heads=heads, coefs=[1.0, 1.0], balance=balance)
  return _predict(apply, variables, batch, key, **given)


def xdc(apply, variables, batch, key, *, balance: bool = True):
  """Cross-modal deep clustering: each tower tells the other's clusters."""
  given = dict(heads=OTHERS, coefs=[1.0, 1.0], balance=balance)
  return _predict(apply, variables, batch, key, **given)


def xdc_round(
  state,
  features: Mapping[str, np.ndarray],
  key,
  *,
  num_examples: int,
  clusters: int,
  labels: Sequence[str] = ("video", "audio"),
  whiten: int = 0,
  within: str = "",
  batch: int = 1024,
  passes: int = 20,
):
  """Clusters the features anew, and starts the heads that tell the clusters anew.

  Args:
    state: TrainState with the collection "clusters" that `init` made.
    features: example_id [n]; video_features, audio_features [n, D] as `labels` need;
      `within` [n] where given. Several windows of an example are averaged.
    num_examples: of the split; example ids are below it.
    clusters: K of the model.
    labels: of "video", "audio" and "joint", which is both, each of length 1.
    whiten: dimensions of a PCA with whitening before k-means (DeepCluster: 256); 0, as
      they are. More than there are is what there is.
    within: a batch key, as "label_speaker": features are standardised within each of
      its values first, so that clusters do not tell the values.
    batch, passes: of `kmeans.fit`.
  Raises: UserError for ids beyond num_examples, fewer examples than clusters, or labels
    that are not known.
  """
  for name in labels:
    if name not in LABELS:
      raise UserError(f"rounds: no labels {name!r}; known: {', '.join(LABELS)}.")
  ids = features["example_id"].astype(np.int64)
  if ids.max() >= num_examples:
    raise UserError(
      f"rounds: num_examples={num_examples}, but the data have an example {ids.max()}."
    )
  kept, first = np.unique(ids, return_index=True)
  if len(kept) < clusters:
    raise UserError(f"rounds: {len(kept)} examples cannot make {clusters} clusters.")
  table = dict(state.mutable[COLLECTION])
  seed = int(jax.random.randint(key, (), 0, 2**31 - 1))
  for name in labels:
    x = _of_examples(_features(features, name), ids)
    if within:
      x = standardise(x, features[within][first])
    if whiten:
      width = min(whiten, x.shape[1], len(x))
      x = whitening.fit([x], width=width).apply(x)
    fit = kmeans.fit(
      [x], branching=clusters, depth=1, passes=passes, batch=batch, seed=seed
    )
    label = np.full(num_examples, -1, np.int32)
    label[kept] = fit.ids
    count = np.bincount(fit.ids, minlength=clusters)
    # Each used cluster has the same weight in all; the mean weight of examples is 1.
    weight = np.where(count > 0, len(kept) / np.maximum(count, 1), 0.0)
    weight = (weight / max((count > 0).sum(), 1)).astype(np.float32)
    old = np.asarray(table[name])
    both = (old >= 0) & (label >= 0)
    same = kmeans.mutual_information(old[both], label[both]) if both.any() else 0.0
    log.info(
      "clusters of %s: %d of %d used, perplexity %.1f; %.3f mutual information with "
      "the last round",
      name,
      (count > 0).sum(),
      clusters,
      kmeans.perplexity(count),
      same,
    )
    table[name], table[f"{name}_weight"] = label, weight
  placed = jax.tree.map(
    lambda new, old: jax.device_put(new, old.sharding),
    table,
    dict(state.mutable[COLLECTION]),
  )
  state = state.replace(mutable={**state.mutable, COLLECTION: placed})
  return _heads_anew(state, jax.random.fold_in(key, 1))


def _init(
  variables, *, num_examples, clusters, labels: Sequence[str] = ("video", "audio"), **_
):
  """The collection before the first round: no example has a label."""
  table = {name: jnp.full(num_examples, -1, jnp.int32) for name in labels}
  table |= {f"{name}_weight": jnp.ones(clusters, jnp.float32) for name in labels}
  return {COLLECTION: table}


xdc_round.init = _init


def _features(features, name):
  """[n, D] float32 that the labelling `name` clusters."""
  if name != "joint":
    return np.asarray(features[f"{name}_features"], np.float32)
  parts = (np.asarray(features[f"{m}_features"], np.float32) for m in LABELS[:2])
  unit = lambda x: x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)
  return np.concatenate([unit(x) for x in parts], axis=1)


def _of_examples(x, ids):
  """Means over the rows of each example, in the order of their ids."""
  _, at, count = np.unique(ids, return_inverse=True, return_counts=True)
  total = np.zeros((len(count), x.shape[1]))
  np.add.at(total, at, x)
  return (total / count[:, None]).astype(np.float32)


def standardise(x: np.ndarray, group: np.ndarray) -> np.ndarray:
  """(x - mean) / (deviation + 1e-3 of the mean deviation), in each group by itself."""
  out = np.empty_like(x)
  for value in np.unique(group):
    rows = group == value
    part = x[rows] - x[rows].mean(0)
    deviation = part.std(0)
    out[rows] = part / (deviation + 1e-3 * deviation.mean() + 1e-12)
  return out


def _heads_anew(state, key):
  """New heads, N(0, 0.01) and 0, and no memory of the old ones in the optimizer."""
  ours = lambda path: HEADS in jax.tree_util.keystr(path, simple=True, separator="/")
  fresh = {}

  def draw(path, x):
    if not ours(path):
      return x
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    new = jnp.zeros(x.shape, x.dtype)
    if x.ndim > 1:
      own = jax.random.fold_in(key, len(fresh))
      new = 0.01 * jax.random.normal(own, x.shape, x.dtype)
    fresh[name] = new
    return jax.device_put(new, x.sharding)

  params = jax.tree_util.tree_map_with_path(draw, state.params)

  def forget(path, x):
    if not ours(path):
      return x
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    # Averages of parameters begin at the new ones, all other memory at 0.
    new = jnp.zeros(x.shape, x.dtype)
    if "ema/" in name:
      new = fresh[name[name.index(HEADS) :]].astype(x.dtype)
    return jax.device_put(new, x.sharding)

  opt_state = jax.tree_util.tree_map_with_path(forget, state.opt_state)
  return state.replace(params=params, opt_state=opt_state)
