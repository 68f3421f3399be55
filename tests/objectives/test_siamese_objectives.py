"""SimCLR, MoCo and BYOL: published values, loops, teachers, queues, rows, devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests import helpers
from tests.reference import siamese as reference
from vlp_jax import batch as batch_lib
from vlp_jax import resolve, sharding
from vlp_jax import settings as settings_lib
from vlp_jax import state as state_lib
from vlp_jax import step as step_lib
from vlp_jax.errors import UserError
from vlp_jax.layers import norm
from vlp_jax.models import siamese
from vlp_jax.objectives import byol, moco, simclr, views

SIDE, DIM = 6, 4
STILL = dict(size=SIDE)  # the views are the pictures
LIVELY = dict(size=5, crop={}, flip={}, grey=dict(p=0.5))
NAMES = ("simclr", "moco", "byol")
OBJECTIVES = {"simclr": simclr.simclr, "moco": moco.moco, "byol": byol.byol}
HOOKS = {
  "simclr": {},
  "moco": dict(fn="moco:momentum", size=16, dim=DIM, decay=0.9),
  "byol": dict(fn="byol:target", base=0.9, total_steps=4),
}
V = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 1]], np.float32)
A = np.array([[1, 0.5, 0], [0, 1, 1], [1, 0, 1]], np.float32)


class Tiny(nn.Module):
  """Mean colours [B, 3] times W; BN if groups; times P."""

  groups: int = 0

  def spec(self):
    pixels = jax.ShapeDtypeStruct((2, SIDE, SIDE, 3), jnp.uint8)
    return {
      "image_pixels": pixels,
      "image_mask": jax.ShapeDtypeStruct((2,), jnp.bool_),
    }

  def setup(self):
    make = functools.partial(nn.Dense, use_bias=False)
    self.encoder, self.predict_head = make(DIM), make(DIM)
    if self.groups:
      self.bn = norm.BatchNorm(groups=self.groups)

  def __call__(self, batch, *, train=False):
    out = self.project(batch, train=train)
    return out | {"prediction": self.predict_head(out["projection"])}

  def project(self, batch, *, train=False):
    x = self.encoder(batch["image_pixels"].mean((1, 2)))
    if self.groups:
      x = self.bn(x, train=train, where=batch["image_mask"])
    return {"projection": x}


def batches(count=3, rows=8, seed=0):
  rng = np.random.default_rng(seed)
  return [
    {
      "image_pixels": rng.integers(0, 256, (rows, SIDE, SIDE, 3)).astype(np.uint8),
      "image_mask": np.ones(rows, bool),
      "example_id": np.arange(i * rows, (i + 1) * rows, dtype=np.int32),
    }
    for i in range(count)
  ]


def prepared(name, *, devices=1, groups=0, lr=0.5, micro=1, settings=STILL, **hyper):
  """(state, step, mesh) of a method on the tiny model, by plain gradient descent."""
  mesh = sharding.mesh(devices=jax.devices()[:devices])
  hook = settings_lib._hook(HOOKS[name])
  model = Tiny(groups)
  extra = getattr(hook, "init", None)
  make, _, shardings, tx = state_lib.init(
    model, lambda _: optax.sgd(lr), mesh, extra=extra
  )
  objective = functools.partial(OBJECTIVES[name], views=settings, **hyper)
  step = step_lib.build(
    settings_lib.with_hooks(objective),
    apply=state_lib.make_apply(model),
    tx=tx,
    mesh=mesh,
    shardings=shardings,
    micro=micro,
    after_update=hook,
  )
  return make(), step, mesh


def train(name, data, **given):
  state, step, mesh = prepared(name, **given)
  losses = []
  for batch in data:
    state, means = step(state, sharding.put(batch, mesh), jax.random.key(0))
    losses.append(float(means["loss"].value))
  return jax.device_get(state), np.array(losses)


def runner(name, *, groups=0, settings=STILL, **hyper):
  """(variables, batch) -> (terms, aux, mutable) of an objective itself, jitted."""
  fn = functools.partial(OBJECTIVES[name], views=settings, **hyper)
  apply = state_lib.make_apply(Tiny(groups))
  return jax.jit(lambda v, b: fn(apply, v, b, jax.random.key(3)))


def features(batch):
  return batch["image_pixels"].astype(np.float64).mean((1, 2)) / 255


# ----- published values


def test_published_values():
  near = functools.partial(np.testing.assert_allclose, atol=2e-6)
  mean = jax.jit(lambda: simclr.nt_xent(V, A, tau=0.5)[0].mean())
  half = jax.jit(lambda: simclr.nt_xent(V, A, tau=0.5, sides="mean")[0].mean())
  near(mean(), 2.331756)
  near(half(), 1.165878)
  near(byol.regression(V, A).mean(), 0.387980)
  with pytest.raises(ValueError, match="sides"):
    simclr.nt_xent(V, A, sides="both")


def test_golden_simclr():
  _, inputs, outputs, _ = helpers.golden("simclr_ntxent")

  @jax.jit
  def run(x, tau):
    mean = lambda x: simclr.nt_xent(*jnp.split(x, 2), tau=tau)[0].mean()
    return jax.value_and_grad(mean)(x)

  names = [n for n in inputs if n.startswith("h8_") and n.endswith("_norm")]
  assert names
  for name in names:
    loss, grad = run(inputs[name], float(name.split("_")[1]))
    np.testing.assert_allclose(loss, outputs[f"loss{name[1:]}"], rtol=1e-5)
    np.testing.assert_allclose(grad, outputs[f"grad{name[1:]}"], atol=1e-5)


def test_decay_of_byol():
  of = functools.partial(byol.decay, base=0.996, total_steps=100)
  np.testing.assert_allclose(of(0), 0.996, rtol=1e-7)
  np.testing.assert_allclose(of(50), 0.998, rtol=1e-6)
  np.testing.assert_allclose(of(25), 1 - 0.004 * (np.cos(np.pi / 4) + 1) / 2, rtol=1e-6)
  assert of(100) == of(130) == 1


# ----- loops


def test_moco_against_a_loop_in_the_order_of_the_code():
  data = batches(3)
  start, _, _ = prepared("moco")
  start = jax.device_get(start)
  state, losses = train("moco", data, tau=0.3)
  w = np.array(start.params["encoder"]["kernel"], np.float64)
  queue = np.array(start.mutable["queue"]["keys"], np.float64)
  np.testing.assert_allclose(np.linalg.norm(queue, axis=1), 1, rtol=1e-6)
  xs = [features(b) for b in data]
  want, w, key, queue = reference.moco(xs, w, queue, lr=0.5, decay=0.9, tau=0.3)
  near = functools.partial(np.testing.assert_allclose, atol=2e-5)
  near(losses, want)
  near(state.params["encoder"]["kernel"], w)
  near(state.mutable["teacher"]["params"]["encoder"]["kernel"], key)
  near(state.mutable["queue"]["keys"], queue)
  assert state.mutable["queue"]["pointer"] == 8  # three batches of 8 in a ring of 16
  assert set(state.mutable["teacher"]["params"]) == {"encoder"}  # no predictor
  assert np.abs(w - np.array(start.params["encoder"]["kernel"])).max() > 1e-3


def test_byol_against_a_loop():
  data = batches(3)
  start = jax.device_get(prepared("byol")[0])
  state, losses = train("byol", data)
  w, p = (
    np.array(start.params[k]["kernel"], np.float64) for k in ("encoder", "predict_head")
  )
  xs = [features(b) for b in data]
  want, w, p, target = reference.byol(xs, w, p, lr=0.5, base=0.9, total_steps=4)
  near = functools.partial(np.testing.assert_allclose, atol=2e-5)
  near(losses, want)
  near(state.params["encoder"]["kernel"], w)
  near(state.params["predict_head"]["kernel"], p)
  near(state.mutable["teacher"]["params"]["encoder"]["kernel"], target)


def test_simclr_is_nt_xent_of_its_projections():
  batch = batches(1)[0]
  state = prepared("simclr")[0]
  terms, aux, _ = runner("simclr", tau=0.3)(state.variables, batch)
  z = features(batch).astype(np.float32) @ state.params["encoder"]["kernel"]
  want, right = simclr.nt_xent(z, z, tau=0.3)
  np.testing.assert_allclose(terms["nt_xent"].total, want.sum(), rtol=1e-4)
  assert aux["nt_xent/accuracy"].weight == right.size
  half = runner("simclr", tau=0.3, sides="mean")(state.variables, batch)[0]
  np.testing.assert_allclose(2 * half["nt_xent"].total, want.sum(), rtol=1e-4)


# ----- what moves and what does not


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_no_gradient_reaches_teacher_or_queue(name):
  state, _, _ = prepared(name, groups=1)
  apply = state_lib.make_apply(Tiny(1))
  batch = batches(1)[0]

  def loss(params, rest):
    fn = functools.partial(OBJECTIVES[name], views=STILL)
    terms, _, _ = fn(apply, rest | {"params": params}, batch, jax.random.key(0))
    return terms[name].value

  rest = {k: v for k, v in state.mutable.items() if k != "queue"}
  if name == "moco":
    keys = state.mutable["queue"]["keys"]
    put = lambda rest, keys: {**rest, "queue": state.mutable["queue"] | {"keys": keys}}
  else:
    keys, put = jnp.zeros(()), lambda rest, keys: rest
  fn = jax.jit(jax.grad(lambda p, r, k: loss(p, put(r, k)), argnums=(0, 1, 2)))
  student, teacher, queue = fn(state.params, rest, keys)
  assert not any(np.any(x) for x in jax.tree.leaves((teacher["teacher"], queue)))
  assert all(np.any(x) for x in jax.tree.leaves(student["encoder"]))


@pytest.mark.parametrize("name", ["moco", "byol"])
def test_a_bad_step_moves_nothing(name):
  state, step, mesh = prepared(name, groups=1)
  good = batches(1)[0]
  pixels = good["image_pixels"].astype(np.float32) / 255
  pixels[3] = np.nan
  before = jax.device_get(state)
  bad = good | {"image_pixels": pixels}
  state, _ = step(state, sharding.put(bad, mesh), jax.random.key(0))
  assert (int(state.skipped), int(state.step)) == (1, 1)
  same = np.testing.assert_array_equal
  jax.tree.map(same, (state.params, state.mutable), (before.params, before.mutable))
  pixels[3] = 0.5
  state, _ = step(state, sharding.put(bad, mesh), jax.random.key(0))
  assert int(state.skipped) == 1
  # The teacher's statistics are its own and have moved, as have its parameters.
  moved = lambda tree: [
    np.abs(a - b).max() > 0
    for a, b in zip(
      jax.tree.leaves(state.mutable[tree]),
      jax.tree.leaves(before.mutable[tree]),
      strict=True,
    )
  ]
  assert all(moved("teacher"))
  assert all(moved("batch_stats"))


def test_the_queue_is_a_ring():
  queue = moco.start(6, 3)
  keys = np.arange(1.0, 10.0, dtype=np.float32).reshape(3, 3)
  one = moco.enqueue(queue, keys, np.array([True, False, True]))
  two = moco.enqueue(one, -keys, np.ones(3, bool))
  three = moco.enqueue(two, keys, np.ones(3, bool))
  unit = reference.unit(keys)
  np.testing.assert_allclose(two["keys"], np.concatenate([unit, -unit]), rtol=1e-6)
  np.testing.assert_array_equal(two["real"], [True, False, True, True, True, True])
  np.testing.assert_allclose(three["keys"], two["keys"])
  assert [int(q["pointer"]) for q in (queue, one, two, three)] == [0, 3, 0, 3]
  assert three["real"].all()
  with pytest.raises(UserError, match=r"6 keys .* 4 rows; set after_update\.size=4"):
    moco.enqueue(queue, np.ones((4, 3)), np.ones(4, bool))
  with pytest.raises(UserError, match=r"set after_update\.dim"):
    moco.enqueue(queue, np.ones((3, 5)), np.ones(3, bool))


def test_contrast_counts_real_keys_only():
  rng = np.random.default_rng(0)
  q, k, queue = (rng.normal(size=(n, 3)) for n in (4, 4, 6))
  queue = reference.unit(queue)
  real = np.array([True, True, False, True, False, True])
  loss, right = moco.contrast(
    *(jnp.array(x, jnp.float32) for x in (q, k, queue)), queue_where=real, tau=0.2
  )
  np.testing.assert_allclose(
    loss, reference.moco_loss(q, k, queue[real], 0.2), rtol=1e-4
  )
  best = (reference.unit(q) @ queue[real].T).max(1)
  np.testing.assert_array_equal(
    right, (reference.unit(q) * reference.unit(k)).sum(1) > best
  )
  nothing = jax.value_and_grad(
    lambda q: moco.contrast(q, q, queue, queue_where=False)[0].sum()
  )
  value, grad = nothing(jnp.array(q, jnp.float32))
  assert value == 0
  assert not np.any(grad)


# ----- rows


@pytest.mark.parametrize("name", NAMES)
def test_order_of_the_rows_does_not_matter(name):
  batch = batches(1)[0]
  state, _, _ = prepared(name, groups=1)
  order = np.random.default_rng(1).permutation(8)
  turned = {k: x[order] for k, x in batch.items()}
  run = runner(name, groups=1, settings=LIVELY)
  (one, _, new), (other, _, turned_new) = (
    run(state.variables, b) for b in (batch, turned)
  )
  for k in one:
    np.testing.assert_allclose(one[k].total, other[k].total, rtol=2e-5)
  if name == "moco":
    keys, turned_keys = (x["queue"]["keys"][:8] for x in (new, turned_new))
    np.testing.assert_allclose(keys[order], turned_keys, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_rows_of_padding_do_not_count(name):
  """As if they were not there: for rows that do not meet, and in BatchNorm."""
  whole = batches(1)[0]
  real = np.arange(8) < 6
  state, _, _ = prepared(name, groups=1)
  run = functools.partial(runner(name, groups=1, settings=LIVELY), state.variables)
  padded = whole | {"example_mask": real}
  want, aux, new = run(padded)
  wild = {k: x.copy() for k, x in padded.items()}
  wild["image_pixels"][6:] = 255
  got, _, wild_new = run(wild)
  for k in want:
    np.testing.assert_allclose(got[k].total, want[k].total, rtol=1e-5)
    assert want[k].weight == 6
  assert all(m.weight in (6, 12) for m in aux.values())
  near = functools.partial(np.testing.assert_allclose, atol=1e-6)
  jax.tree.map(near, new["batch_stats"], wild_new["batch_stats"])
  if name == "moco":
    np.testing.assert_array_equal(new["queue"]["real"][:8], real)
  none = run(whole | {"example_mask": np.zeros(8, bool)})[0]
  assert all(t.total == 0 and t.weight == 0 for t in none.values())


def test_views_depend_on_step_and_example_only():
  batch = batches(1)[0]
  make = jax.jit(lambda b, k: views.make(b, k, LIVELY))
  key = jax.random.key(5)
  out = make(batch, key)
  assert out["image_pixels"].shape == (8, 5, 5, 3)
  assert out["image_pixels"].dtype == jnp.float32
  part = make({k: x[4:] for k, x in batch.items()}, key)
  np.testing.assert_allclose(part["image_pixels"], out["image_pixels"][4:], atol=1e-6)
  later = make(batch, jax.random.fold_in(key, 1))
  assert np.abs(later["image_pixels"] - out["image_pixels"]).max() > 0.05
  # A clip of one frame is the same picture, with the same draws.
  clips = {
    "video_frames": batch["image_pixels"][:, None],
    "video_mask": np.arange(8)[:, None] != 3,
    "example_id": batch["example_id"],
  }
  still = make(clips, key)
  np.testing.assert_allclose(
    still["video_frames"][:, 0], out["image_pixels"], atol=1e-6
  )
  np.testing.assert_array_equal(still["video_mask"][:, 0], np.arange(8) != 3)


def test_views_of_sound():
  rng = np.random.default_rng(0)
  samples = rng.integers(-9000, 9000, (3, 50)).astype(np.int16)
  mask = np.ones((3, 50), bool)
  mask[0, 30:], mask[2] = False, False
  batch = {"audio_samples": samples, "audio_mask": mask, "example_id": np.arange(3)}
  plain = views.make(batch, jax.random.key(0), {}, stream="audio")
  want = np.where(mask, samples / 32768, 0)
  np.testing.assert_allclose(plain["audio_samples"], want, atol=1e-7)
  cut = views.make(batch, jax.random.key(0), dict(crop=dict(size=20)), stream="audio")
  assert cut["audio_samples"].shape == cut["audio_mask"].shape == (3, 20)
  np.testing.assert_array_equal(cut["audio_mask"].any(1), [True, True, False])
  for row in range(2):  # the mask is cut where the samples are
    at = [
      i
      for i in range(31)
      if np.allclose(cut["audio_samples"][row], want[row, i : i + 20])
    ]
    found = np.array(cut["audio_mask"][row])
    real = [mask[row, i : i + 20] for i in at]
    assert any((found == (m | ~m.any())).all() for m in real)


@pytest.mark.multidevice
@pytest.mark.parametrize("name", NAMES)
def test_the_same_on_any_number_of_devices(name):
  data = batches(2, rows=8)
  given = dict(groups=1, settings=dict(size=SIDE, flip={}), lr=0.05)
  want, want_losses = train(name, data, **given)
  for devices in (2, 8):
    got, losses = train(name, data, devices=devices, **given)
    np.testing.assert_allclose(losses, want_losses, rtol=2e-5)
    near = functools.partial(np.testing.assert_allclose, atol=5e-5)
    jax.tree.map(near, (got.params, got.mutable), (want.params, want.mutable))


def test_microbatches():
  """BYOL without BatchNorm is a sum over rows; the others refuse."""
  data = batches(2)
  want, want_losses = train("byol", data)
  got, losses = train("byol", data, micro=4)
  np.testing.assert_allclose(losses, want_losses, rtol=1e-5)
  near = functools.partial(np.testing.assert_allclose, atol=1e-6)
  jax.tree.map(near, (got.params, got.mutable), (want.params, want.mutable))
  for name in ("simclr", "moco"):
    with pytest.raises(UserError, match="micro=2 would change the loss"):
      prepared(name, micro=2)


def test_shuffled_keys_are_grouped_anew():
  """With one group of BatchNorm the order changes nothing; with two it does."""
  batch = batches(1)[0]
  order = np.array(moco.shuffled(batch, jax.random.key(0)))
  assert sorted(order) == list(range(8))
  turned = {k: x[::-1] for k, x in batch.items()}
  other = np.array(moco.shuffled(turned, jax.random.key(0)))
  np.testing.assert_array_equal(batch["example_id"][order], turned["example_id"][other])
  for groups, same in ((1, True), (2, False)):
    state, _, _ = prepared("moco", groups=groups)
    queues = [
      runner("moco", groups=groups, shuffle=s)(state.variables, batch)[2]["queue"]
      for s in (True, False)
    ]
    assert np.allclose(*(q["keys"][:8] for q in queues), atol=1e-5) == same


# ----- towers, and mistakes

SMALL_RESNET = dict(depths=(1,), widths=(8,), stem_width=4)
TOWERS = {
  "resnet": SMALL_RESNET,
  "tsm_resnet": SMALL_RESNET,
  "r2plus1d": dict(widths=(4,), depths=(1,), stem_mid=4),
  "audio_resnet": SMALL_RESNET,
}


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("name", NAMES)
def test_any_tower_by_shapes(name, tower):
  stream = siamese.TOWERS[tower][0]
  given = dict(tower=tower, tower_args=TOWERS[tower], front_end="mmv16k")
  model = resolve.model(dict(name="siamese", variant="mu") | given)
  apply = state_lib.make_apply(model)
  settings = dict(gain={}, noise={}) if stream == "audio" else dict(size=24, flip={})

  def run(key):
    small = batch_lib.zeros(model.spec())
    variables = model.init(key, small)
    hook = settings_lib._hook(HOOKS[name] | (dict(dim=8) if name == "moco" else {}))
    variables |= hook.init(variables) if hook else {}
    batch = {k: jnp.repeat(x, 4, axis=0) for k, x in small.items()}
    batch["example_id"] = jnp.arange(4, dtype=jnp.int32)
    fn = functools.partial(OBJECTIVES[name], views=settings, stream=stream)
    return variables, fn(apply, variables, batch, key)

  variables, (terms, _, new) = jax.eval_shape(run, jax.random.key(0))
  assert len(terms) == 1
  shape = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
  assert shape(new) == shape({k: variables[k] for k in new})
  assert set(new) == set(variables) - {"params"}


def test_mistakes_are_told():
  batch = batches(1)[0]
  variables = prepared("simclr")[0].variables
  for name in ("moco", "byol"):
    with pytest.raises(UserError, match=f"after_update = dict.fn='{name}:"):
      runner(name)(variables, batch)
  three = {k: x[:3] for k, x in batch.items()}
  with pytest.raises(UserError, match=r"of 3 rows; set after_update\.size=15"):
    runner("moco")(prepared("moco")[0].variables, three)
  run = lambda **given: runner("simclr", **given)(variables, batch)
  with pytest.raises(UserError, match="no size"):
    run(settings={})
  with pytest.raises(UserError, match="list of two"):
    run(settings=(STILL,))
  with pytest.raises(UserError, match="stream='audio' reads"):
    run(stream="audio")
  with pytest.raises(ValueError, match="differ in size"):
    run(settings=(STILL, dict(size=3)))
