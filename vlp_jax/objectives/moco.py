"""MoCo v1 and v2: a query against its key and a queue (arXiv 1911.05722, 2003.04297).

What moves when, with theta the query encoder and theta' the key encoder of `teacher`:

  step t     q = f(x_q; theta_t), k = f(x_k; theta'_t); loss against the queue as step
             t - 1 left it; then, in what the objective hands back, k takes the place of
             the oldest keys
  update     theta_{t+1} by the optimiser
  hook       theta'_{t+1} = m theta'_t + (1 - m) theta_{t+1}  (`momentum`, after_update)

The published code moves theta' before it computes keys: the same sequence, since at the
first step theta' equals theta. Keys cannot be enqueued by the hook, which does not see
them; the loss has read the old queue by then, and a step that is not finite changes
neither. Config: `after_update = dict(fn="moco:momentum", size=65_536, dim=128)`.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from vlp_jax.errors import UserError
from vlp_jax.metrics import Mean, Term, wide
from vlp_jax.objectives import nce
from vlp_jax.objectives import teacher as teacher_lib
from vlp_jax.objectives import views as views_lib

# Of v2. v1 has a hue of 0.4, jitters every picture (p = 1) and blurs none.
VIEW = dict(
  size=224,
  crop=dict(area=(0.2, 1.0)),
  flip={},
  jitter=dict(brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, p=0.8),
  grey={},
  blur=dict(edges="edge"),
)


def contrast(
  query: jax.Array,
  keys: jax.Array,
  queue: jax.Array,
  *,
  queue_where: jax.Array | bool = True,
  tau: float = 0.07,
) -> tuple[jax.Array, jax.Array]:
  """InfoNCE of each query with its key among the K of the queue.

    L_i = log(exp(q_i . k_i / tau) + sum_n exp(q_i . u_n / tau)) - q_i . k_i / tau

  of unit vectors. Source: arXiv 1911.05722, eq. 1. No gradient flows into keys.

  Args:
    query, keys: [B, D] float of any norm; queue: [K, D] of unit norm, u.
    queue_where: [K] bool, which of the queue count.
  Returns: [B] float32 in nats, [B] bool, whether no key of the queue is as near.
  """
  if query.shape != keys.shape or queue.shape[1:] != query.shape[1:]:
    raise ValueError(f"bad shapes: {query.shape}, {keys.shape}, {queue.shape}")
  q, k = nce.unit(wide(query)), jax.lax.stop_gradient(nce.unit(wide(keys)))
  queue = jax.lax.stop_gradient(wide(queue))
  own = (q * k).sum(-1, keepdims=True) / tau
  others = jnp.dot(q, queue.T, precision="highest") / tau
  others = jnp.where(queue_where, others, -jnp.inf)
  every = jnp.concatenate([own, others], axis=1)  # [B, 1 + K]
  loss = jax.nn.logsumexp(every, axis=1) - own[:, 0]
  return loss, own[:, 0] > others.max(axis=1)


def enqueue(
  queue: Mapping[str, jax.Array], keys: jax.Array, where: jax.Array
) -> dict[str, jax.Array]:
  """The queue with keys [B, D] in place of its B oldest; where [B] bool, real ones.

  Raises: UserError unless K is a multiple of B, so that the ring never tears a batch.
  """
  size, rows = len(queue["keys"]), len(keys)
  if size % rows:
    near = max(size // rows, 1) * rows
    raise UserError(
      f"a queue of {size} keys is no multiple of the batch of {rows} rows; set "
      f"after_update.size={near}, or another input.rows."
    )
  if queue["keys"].shape[1:] != keys.shape[1:]:
    raise UserError(
      f"the queue has keys of width {queue['keys'].shape[1]}, the projector gives "
      f"{keys.shape[1]}; set after_update.dim to that."
    )
  at = queue["pointer"]
  put = lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, at, 0)
  return {
    "keys": put(queue["keys"], nce.unit(wide(keys)).astype(queue["keys"].dtype)),
    "real": put(queue["real"], where),
    "pointer": (at + rows) % size,
  }


def start(size: int, dim: int, seed: int = 0) -> dict[str, jax.Array]:
  """A queue of random unit vectors, all of which count: keys [K, D], pointer 0."""
  keys = nce.unit(jax.random.normal(jax.random.key(seed), (size, dim)))
  pointer = jnp.zeros((), jnp.int32)
  return {"keys": keys, "real": jnp.ones(size, bool), "pointer": pointer}


def moco(
  apply,
  variables,
  batch,
  key,
  *,
  views: Mapping | Sequence = VIEW,
  stream: views_lib.Stream = "image",
  tau: float = 0.2,
  shuffle: bool = True,
):
  """The loss of `contrast`, mean over real rows; see the module's header for the order.

  It reads the pixels or samples of `stream`, example_id and, if given, masks; and of
  the variables `teacher` and `queue`, which `momentum` makes. Rows of padding enter the
  queue as keys that do not count. A batch is enqueued at once, so the step takes it at
  once (`global_batch`).

  Args:
    views: settings of `objectives.views`, for both or a list: of queries, of keys.
    stream: "image", "video" or "audio".
    tau: 0.07 in v1, 0.2 in v2.
    shuffle: keys are computed in another order of the global batch, drawn from the step
      and the examples, and put back (shuffling BN). Under jit the statistics of
      BatchNorm are those of the whole batch, where an order changes nothing and query
      and key share theirs. It takes effect with `bn_groups` of the model above 1, the
      devices of the paper (8): then a key's group is not its query's. Rows then move
      between devices, as uint8.
  Returns: term `moco` in nats; metric `moco/accuracy`, the share of queries nearer to
    their key than to the queue; the new statistics, `teacher` and `queue`.
  """
  student, teacher = teacher_lib.split(variables, "moco:momentum")
  view_key, key_key, order_key, drop_key = jax.random.split(key, 4)
  for_queries, for_keys = views_lib.pair(views)
  rng = jax.random.fold_in(drop_key, batch["example_id"][0])
  seen = views_lib.make(batch, view_key, for_queries, stream=stream)
  out, mutable = apply(student, seen, rng=rng, train=True)
  apart, rows = batch, jnp.arange(len(batch["example_id"]))
  if shuffle:
    rows = shuffled(batch, order_key)
    apart = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), dict(batch))
  seen = views_lib.make(apart, key_key, for_keys, stream=stream)
  keys, teacher = teacher_lib.forward(apply, teacher, seen, jax.random.fold_in(rng, 1))
  keys = jnp.zeros_like(keys).at[rows].set(keys) if shuffle else keys
  queue, where = variables["queue"], views_lib.real(batch, stream)
  new = enqueue(queue, keys, where)
  given = dict(queue_where=queue["real"], tau=tau)
  loss, right = contrast(out["projection"], keys, queue["keys"], **given)
  aux = {"moco/accuracy": Mean.of(right, where)}
  mutable = {**mutable, "teacher": teacher, "queue": new}
  return {"moco": Term(*Mean.of(loss, where))}, aux, mutable


moco.global_batch = True


def shuffled(batch: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
  """[B] int32, an order of the rows: by a draw of each example."""
  ids = batch["example_id"]
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, ids)
  return jnp.argsort(jax.vmap(jax.random.uniform)(keys))


def momentum(
  state, *, size: int = 65_536, dim: int = 128, decay: float = 0.999, seed: int = 0
):
  """after_update: the key encoder moves towards the new query encoder.

  Args:
    size, dim: of the queue, K keys of D numbers; K is a multiple of the batch.
    decay: m. seed: of the first keys.
  """
  teacher = teacher_lib.move(state.mutable["teacher"], state.params, decay)
  return {**state.mutable, "teacher": teacher}


def _init(variables, *, size=65_536, dim=128, decay=0.999, seed=0):
  del decay
  return {"teacher": teacher_lib.init(variables), "queue": start(size, dim, seed)}


momentum.init = _init
