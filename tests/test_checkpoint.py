"""Checkpoints: round trips, other meshes, retention, refusals, plain weights."""

import logging
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vlp_jax import checkpoint, manifest, optim, restore, snapshot, vocab
from vlp_jax.errors import CheckpointError, UserError

CONFIG = dict(model=dict(name="tiny", width=4), total_steps=9)


class State(NamedTuple):
  step: Any
  params: Any
  mutable: Any
  opt_state: Any


def state(step=1, width=4, dtype=np.float32):
  rng = np.random.default_rng(step)
  kernel = rng.normal(size=(8, width)).astype(dtype)
  params = {"a/b": {"kernel": kernel}, "bias": np.zeros((0, 3), np.float32)}
  params = jax.tree.map(jnp.asarray, params)
  tx = optax.chain(optax.adam(0.1), optim.ema(0.5))
  queue = jnp.asarray(rng.normal(size=3), jnp.bfloat16)
  return State(jnp.int32(step), params, {"queue": {"x": queue}}, tx.init(params))


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def save(saved, step, **given):
  given = dict(data={"at": step}, config=CONFIG) | given
  saved.save(step, state(step), **given)


def same(a, b):
  def equal(x, y):
    assert x.dtype == y.dtype
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))

  jax.tree.map(equal, a, b)


def test_round_trip_is_bit_exact(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saved:
    assert saved.restore(abstract(state())) is None
    position = {"window": 3, "sum": (0.1, np.float64(1 / 3)), "seed": np.int64(2**40)}
    save(saved, 7, data=position, metrics={"recall": np.float32(0.5)})
  with checkpoint.Checkpoints(tmp_path) as again:
    got = again.restore(abstract(state()))
  same(got.state, state(7))
  assert jax.tree.structure(got.state) == jax.tree.structure(state(7))
  assert got.data == {"window": 3, "sum": [0.1, 1 / 3], "seed": 2**40}
  assert (got.step, got.config, got.metrics) == (7, CONFIG, {"recall": 0.5})


@pytest.mark.parametrize(
  "way",
  [
    snapshot.copies,  # numpy views on CPU
    snapshot.duplicate,  # accelerators with room
    lambda flat: None,  # orbax by itself
  ],
)
def test_a_saved_state_may_be_donated(tmp_path, way, monkeypatch):
  monkeypatch.setattr(snapshot, "copies", way)
  scrub = jax.jit(lambda x: jax.tree.map(lambda a: a * 0 + 1, x), donate_argnums=0)
  x = {"w": jax.random.normal(jax.random.key(0), (512, 512))}
  want = np.array(x["w"])
  with checkpoint.Checkpoints(tmp_path) as saved:
    saved.save(1, x, data={}, config={})
    x = scrub(x)
    saved.wait()
    got = saved.restore(abstract(x))
  np.testing.assert_array_equal(got.state["w"], want)


def test_save_returns_before_the_commit_and_snapshots_its_data(tmp_path, monkeypatch):
  gate, real = threading.Event(), manifest.commit
  monkeypatch.setattr(manifest, "commit", lambda *a: gate.wait(30) and real(*a))
  with checkpoint.Checkpoints(tmp_path) as saved:
    data = {"window": [1]}
    save(saved, 1, data=data)
    data["window"].append(2)
    assert saved.steps() == []
    gate.set()
    saved.wait()
    assert saved.steps() == [1]
    assert saved.restore(abstract(state())).data == {"window": [1]}


def test_the_last_and_the_best_stay(tmp_path):
  given = dict(keep_last=2, keep_best=1, best_metric="loss", best_mode="min")
  losses = [3.0, 1.0, float("nan"), 2.0, 5.0, None]
  with checkpoint.Checkpoints(tmp_path, **given) as saved:
    for step, loss in enumerate(losses, 1):
      save(saved, step, metrics=None if loss is None else {"loss": loss})
    saved.wait()
    assert saved.steps() == [2, 5, 6]
    with pytest.raises(UserError, match=r"no 'loss'.*val_loss"):
      save(saved, 7, metrics={"val_loss": 1.0})


def test_the_same_step_is_saved_once_and_an_abandoned_future_goes(tmp_path):
  with checkpoint.Checkpoints(tmp_path, keep_last=3) as saved:
    for step in (1, 2, 3):
      save(saved, step)
    save(saved, 3, data={"at": "again"})
    saved.wait()
    assert saved.restore(abstract(state())).data == {"at": 3}
    assert saved.restore(abstract(state()), step=1).step == 1
    save(saved, 2, data={"at": "other"})  # the run went back to 1
    saved.wait()
    assert saved.steps() == [1, 2]
    assert saved.restore(abstract(state())).data == {"at": "other"}


def test_another_architecture_is_reported_in_full(tmp_path):
  with checkpoint.Checkpoints(tmp_path) as saved:
    save(saved, 1)
    saved.wait()
    other = abstract(state(width=5))
    params = {**other.params, "head": {"bias": jax.ShapeDtypeStruct((2,), jnp.float16)}}
    del params["bias"]
    with pytest.raises(CheckpointError) as error:
      saved.restore(other._replace(params=params))
    text = str(error.value)
    assert error.value.exit_code == 4
    assert "1 missing: params/head/bias" in text
    assert "1 unexpected: params/bias" in text
    assert "params/a/b/kernel float32[8, 4] for float32[8, 5]" in text
    assert "'name': 'tiny'" in text
    assert "config.json" in text
    # orbax by itself would cast in silence.
    half = jax.ShapeDtypeStruct((8, 4), jnp.bfloat16)
    half = {**abstract(state()).params, "a/b": {"kernel": half}}
    with pytest.raises(CheckpointError, match=r"1 mismatched.*float32.* for bfloat16"):
      saved.restore(abstract(state())._replace(params=half))


def test_comparison_lists_twenty_and_counts_all():
  many = {f"p{i:02}": [[1], "float32"] for i in range(30)}
  text = manifest.compare({}, many)
  assert text.startswith("30 missing: p00, ")
  assert "p19, ..." in text
  assert "p20" not in text
  assert manifest.compare(many, many) == ""


def test_another_vocabulary_is_refused(tmp_path):
  words = lambda size, digest: vocab.Vocab(size=size, digest=digest)
  labels = {"answers": ["yes", "no"]}
  with checkpoint.Checkpoints(tmp_path, vocab=words(9, "aa"), labels=labels) as saved:
    save(saved, 1)
  look = lambda **given: checkpoint.Checkpoints(tmp_path, read_only=True, **given)
  with pytest.raises(CheckpointError, match=r"vocabulary.*9 .*aa.*8.*bb"):
    look(vocab=words(8, "bb"), labels=labels).restore(abstract(state()))
  with pytest.raises(CheckpointError, match=r"answers.* 2 .* 2"):
    look(labels={"answers": ["no", "yes"]}).restore(abstract(state()))
  assert look(vocab=words(9, "aa"), labels=labels).restore(abstract(state())).step == 1
  other = look(vocab=words(8, "bb"), override=True)
  assert other.restore(abstract(state())).step == 1


@pytest.mark.multidevice
def test_restores_onto_other_meshes(tmp_path):
  def placed(shape, spec, kind):
    count = int(np.prod(shape))
    axes = (jax.sharding.AxisType.Auto,) * 2
    names, devices = ("data", "fsdp"), jax.devices()[:count]
    mesh = jax.make_mesh(shape, names, axis_types=axes, devices=devices)
    return kind, NamedSharding(mesh, PartitionSpec(*spec))

  values = np.arange(64, dtype=np.float32).reshape(8, 8)
  _, at = placed((4, 2), ("data", "fsdp"), None)
  with checkpoint.Checkpoints(tmp_path) as saved:
    x = {"w": jax.device_put(values, at), "e": jax.device_put(values[:0], at)}
    saved.save(1, x, data={}, config={})
    saved.wait()
    for shape, spec in [
      ((4, 2), ("data", "fsdp")),
      ((2, 4), ("data", "fsdp")),
      ((2, 4), (None, "fsdp")),
      ((2, 1), ("data",)),
      ((1, 1), ()),
    ]:
      _, to = placed(shape, spec, None)
      want = {
        "w": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=to),
        "e": jax.ShapeDtypeStruct((0, 8), jnp.float32, sharding=to),
      }
      got = saved.restore(want).state
      np.testing.assert_array_equal(got["w"], values)
      assert got["w"].sharding == to
      assert got["e"].shape == (0, 8)


def test_weights_from_workdir_checkpoint_and_export(tmp_path):
  with checkpoint.Checkpoints(tmp_path / "run") as saved:
    for step in (1, 2):
      save(saved, step)
  want = {"params": state(2).params, "queue": state(2).mutable["queue"]}
  for path in ("run", "run/checkpoints/2"):
    got = checkpoint.load_variables(tmp_path / path)
    # A "/" in a name reads as one more level: paths stay the same.
    same(snapshot.flat(got), snapshot.flat(want))
  got = checkpoint.load_variables(tmp_path / "run/checkpoints/1")
  np.testing.assert_array_equal(
    got["params"]["a"]["b"]["kernel"], state(1).params["a/b"]["kernel"]
  )
  mean = checkpoint.load_variables(tmp_path / "run", average=True)
  assert set(snapshot.flat(mean)) == set(snapshot.flat(want))
  restore.export(tmp_path / "out", want, config=CONFIG)
  got = checkpoint.load_variables(tmp_path / "out")
  np.testing.assert_array_equal(
    got["params"]["a"]["b"]["kernel"], state(2).params["a/b"]["kernel"]
  )
  np.testing.assert_array_equal(
    got["queue"]["x"], np.asarray(want["queue"]["x"], np.float32)
  )
  with pytest.raises(CheckpointError, match="not empty"):
    restore.export(tmp_path / "out", want, config=CONFIG)
  with pytest.raises(CheckpointError, match="averaged"):
    checkpoint.load_variables(tmp_path / "out", average=True)
  with pytest.raises(CheckpointError, match="no workdir"):
    checkpoint.load_variables(tmp_path / "nothing")


def test_random_keys_do_not_belong_into_a_state(tmp_path):
  with (
    checkpoint.Checkpoints(tmp_path) as saved,
    pytest.raises(TypeError, match="random key"),
  ):
    saved.save(1, {"key": jax.random.key(0)}, data={}, config={})


def test_an_error_in_the_loop_is_not_hidden_by_one_of_the_save(
  tmp_path, monkeypatch, caplog
):
  def broken(*_):
    raise OSError("no space left on device")

  monkeypatch.setattr(manifest, "commit", broken)

  def run():
    with checkpoint.Checkpoints(tmp_path) as saved:
      save(saved, 1)
      raise ZeroDivisionError

  with caplog.at_level(logging.ERROR), pytest.raises(ZeroDivisionError):
    run()
  assert "no space left" in caplog.text
  with (
    pytest.raises(CheckpointError, match=r"checkpoint 1 was not saved.*no space"),
    checkpoint.Checkpoints(tmp_path) as saved,
  ):
    save(saved, 1)
  assert list((tmp_path / "checkpoints").iterdir()) == []
