"""The linear classifiers of `host` by L-BFGS on the accelerator, for large sets.

The same objectives: squared hinge with a regularised intercept, one against the rest;
multinomial logistic with a free one. The classes of the SVM are problems of their own,
solved side by side: one product of matrices serves all. Rows are spread over the local
devices; the answer does not depend on their number beyond rounding. In float32, or in
float64 where JAX has it switched on. All rows must fit into the devices' memory: n x D
x 4 bytes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlp_jax.evaluators import classifiers
from vlp_jax.evaluators.classifiers import scaling

PAD = 256  # rows come in multiples of it, so that folds share a compile
SHARE = 8192  # rows that a further device is worth
SHORTER = 25  # times that a step is made shorter, at most


def svm(
  x: np.ndarray,
  y: np.ndarray,
  *,
  num_classes: int,
  c: float = 1.0,
  max_iter: int = 1000,
  tol: float = 1e-5,
  scale: bool = True,
) -> classifiers.Fitted:
  """The SVM of `host.svm`.

  Args:
    tol: a class is done where its gradient's norm is below tol times that at 0.
    max_iter: steps of L-BFGS. scale: standardise the features first.
  """
  hot = y if y.ndim == 2 else np.eye(num_classes)[y]
  return _solve(_svm, x, 2 * hot - 1, num_classes, c, max_iter, tol, scale)


def logistic(
  x: np.ndarray,
  y: np.ndarray,
  *,
  num_classes: int,
  c: float = 1.0,
  max_iter: int = 1000,
  tol: float = 1e-5,
  scale: bool = True,
) -> classifiers.Fitted:
  """The regression of `host.logistic`; arguments as in `svm`."""
  if y.ndim == 2:
    return _solve(_binary, x, 2 * y - 1, num_classes, c, max_iter, tol, scale)
  known = np.eye(num_classes)[y]
  fitted = _solve(_logistic, x, known, num_classes, c, max_iter, tol, scale)
  absent = np.where(known.any(0), 0.0, -np.inf)  # no row says anything of it
  return fitted._replace(scores=lambda x: fitted.scores(x) + absent)


def _solve(solver, x, target, num_classes, c, max_iter, tol, scale):
  scaler = scaling.Scaler.of(x) if scale else np.asarray
  n = len(x)
  devices = jax.local_devices()[: max(1, n // SHARE)]
  size = -(-n // (PAD * len(devices))) * PAD * len(devices)
  mesh = jax.sharding.Mesh(np.array(devices), ("rows",))
  over = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("rows"))
  kind = jnp.promote_types(float, jnp.float32)  # float64 if switched on

  def put(rows):
    padded = np.zeros((size, *rows.shape[1:]), kind)
    padded[:n] = rows
    return jax.device_put(padded, over)

  ones = np.ones((n, 1))
  args = put(np.concatenate([scaler(x), ones], 1)), put(target), put(ones[:, 0])
  start = jnp.zeros((num_classes, x.shape[1] + 1), kind)
  weight, steps = jax.device_get(solver(start, *args, c, tol, max_iter))
  weight = weight.astype(np.float64)
  stopped = "" if np.max(steps) < max_iter else f"stopped at {max_iter} iterations"
  scores = lambda x: scaler(x) @ weight[:, :-1].T + weight[:, -1]
  return classifiers.Fitted(scores, stopped)


_dot = functools.partial(jnp.matmul, precision="highest")  # else bfloat16 on TPUs


@jax.jit
def _svm(start, x, sign, real, c, tol, max_iter):
  def value(w, sign):  # of one class: [D + 1], [n]
    slack = jnp.maximum(1 - sign * _dot(x, w), 0) * real
    return (w @ w) / 2 + c * (slack @ slack)

  one = lambda w, s: minimise(lambda w: value(w, s), w, tol=tol, max_iter=max_iter)
  return jax.vmap(one, (0, 1))(start, sign)


@jax.jit
def _binary(start, x, sign, real, c, tol, max_iter):
  def value(w, sign):
    loss = jax.nn.softplus(-sign * _dot(x, w)) * real
    return (w[:-1] @ w[:-1]) / 2 + c * loss.sum()

  one = lambda w, s: minimise(lambda w: value(w, s), w, tol=tol, max_iter=max_iter)
  return jax.vmap(one, (0, 1))(start, sign)


@jax.jit
def _logistic(start, x, hot, real, c, tol, max_iter):
  present = (hot > 0).any(0)

  def value(w):  # [K, D + 1]
    z = jnp.where(present, _dot(x, w.T), -jnp.inf)
    loss = jax.nn.logsumexp(z, axis=1) - jnp.where(hot > 0, z, 0).sum(1)
    return jnp.square(w[:, :-1]).sum() / 2 + c * (loss * real).sum()

  return minimise(value, start, tol=tol, max_iter=max_iter)


def minimise(
  value, start: jax.Array, *, tol: float, max_iter: int, memory: int = 20
) -> tuple[jax.Array, jax.Array]:
  """L-BFGS on a convex function from `start` until |g| <= tol |g at start|.

  A backtracking line search is enough: of convex functions every step has a curvature
  that is not negative. A step that does not lower the value ends it too: the numbers
  are exhausted.

  Returns: (argument of the least value seen, steps taken: max_iter if not converged).
  """
  search = optax.scale_by_backtracking_linesearch(SHORTER, store_grad=True)
  solver = optax.lbfgs(memory_size=memory, linesearch=search)
  both = optax.value_and_grad_from_state(value)
  norm = lambda g: jnp.sqrt(jnp.square(g).sum())

  def more(carry):
    _, _, size, first, steps, stuck = carry
    return (steps < max_iter) & (size > tol * first) & ~stuck

  def step(carry):
    w, state, _, first, steps, _ = carry
    old, grad = both(w, state=state)
    updates, state = solver.update(grad, state, w, value=old, grad=grad, value_fn=value)
    new = optax.apply_updates(w, updates)
    size = norm(optax.tree.get(state, "grad"))
    stuck = ~(optax.tree.get(state, "value") < old)
    new = jnp.where(stuck, w, new)
    return new, state, size, first, steps + 1, stuck

  first = norm(jax.grad(value)(start))
  begin = (start, solver.init(start), first, first, 0, jnp.bool_(False))
  w, _, _, _, steps, _ = jax.lax.while_loop(more, step, begin)
  return w, steps
