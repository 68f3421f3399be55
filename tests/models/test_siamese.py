"""The siamese model: counts by hand, towers, heads, rows that are not real, devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax import batch as batch_lib
from vlp_jax import resolve
from vlp_jax import state as state_lib
from vlp_jax.errors import UserError
from vlp_jax.heads import mlp
from vlp_jax.models import siamese
from vlp_jax.objectives import cluster
from vlp_jax.towers import image_resnet

SMALL_RESNET = dict(depths=(1,), widths=(8,), stem_width=4)
TINY = {  # tower -> tower_args
  "resnet": SMALL_RESNET,
  "tsm_resnet": SMALL_RESNET,
  "s3d": dict(stem_width=4, stem_window=(2, 2, 2), stages=(("conv_2b", "point", 4),)),
  "r2plus1d": dict(widths=(4, 4), depths=(1, 1), stem_mid=4),
  "audio_resnet": SMALL_RESNET,
  "audio_resnet18": dict(widths=(4,), stem_width=4, first_width=4),
  "spectrogram": dict(parts=2),
}


def make(variant="mu", **more):
  return resolve.model(dict(name="siamese", variant=variant) | more)


def count(tree):
  return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def shapes(model):
  return jax.eval_shape(model.init, jax.random.key(0), batch_lib.zeros(model.spec()))


def of_resnet50():
  """Parameters of ResNet-50 by hand: kernels, and two numbers a channel of each BN."""
  total, inputs = 7 * 7 * 3 * 64 + 2 * 64, 64
  for depth, width in ((3, 256), (4, 512), (6, 1024), (3, 2048)):
    inner = width // 4
    for k in range(depth):
      total += inputs * inner + 9 * inner * inner + inner * width
      total += 2 * (inner + inner + width)
      if k == 0:
        total += inputs * width + 2 * width
      inputs = width
  return total


HEADS = {
  # Dense without bias and BN; dense without bias and BN without bias.
  "simclr_r50": 2048 * 2048 + 2 * 2048 + 2048 * 128 + 128,
  "moco_v1": 2048 * 128 + 128,
  "moco_v2": 2048 * 2048 + 2048 + 2048 * 128 + 128,
  "byol_r50": sum(c * 4096 + 4096 + 2 * 4096 + 4096 * 256 for c in (2048, 256)),
}


@pytest.mark.parametrize("variant", HEADS)
def test_parameter_counts_at_full_size(variant):
  params = shapes(make(variant))["params"]
  assert of_resnet50() == 23_508_032
  assert count(params["encoder"]) == 23_508_032
  assert count(params) == 23_508_032 + HEADS[variant]
  assert ("predict_head" in params) == (variant == "byol_r50")


def test_three_layers_of_simclr_v2():
  projector = siamese.SIMCLR["projector"] | dict(depth=3)
  params = shapes(make("simclr_r50", projector=projector))["params"]
  more = 2048 * 2048 + 2 * 2048
  assert count(params) == 23_508_032 + HEADS["simclr_r50"] + more


def rows_of(model, rows=4, seed=0):
  """A random batch of the model's spec; row 2 is not real."""
  rng = np.random.default_rng(seed)
  out = {}
  for key, s in model.spec().items():
    shape = (rows, *s.shape[1:])
    if s.dtype == bool:
      mask = np.ones(shape, bool)
      mask[2] = False
      out[key] = mask
    else:
      high = 256 if s.dtype == np.uint8 else 9000
      out[key] = rng.integers(0, high, shape).astype(s.dtype)
  batch_lib.check(out)
  return out


@pytest.mark.parametrize("tower", siamese.TOWERS)
def test_every_tower(tower):
  """Shapes; a row that is not real is 0, and what stands there changes nothing."""
  model = make(tower=tower, tower_args=TINY[tower], front_end="mmv16k")
  stream, data = siamese.TOWERS[tower][0], rows_of(model)
  apply = state_lib.make_apply(model)
  variables = jax.jit(model.init)(jax.random.key(0), batch_lib.zeros(model.spec()))
  run = jax.jit(lambda v, b: apply(v, b, train=True))
  out, new = run(variables, data)
  assert set(out) == {f"{stream}_features", "projection", "prediction"}
  assert out["projection"].shape == out["prediction"].shape == (4, 8)
  assert all(x.dtype == jnp.float32 for x in out.values())
  assert all((np.array(x[2]) == 0).all() for x in out.values())
  assert all(np.array(x[1]).any() for x in out.values())
  wild = {k: x.copy() for k, x in data.items()}
  for x in wild.values():
    if x.dtype != bool:
      x[2] = 77
  again, stats = run(variables, wild)
  same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
  jax.tree.map(same, (again, stats), (out, new))


def test_methods_leave_heads_out():
  model = make(tower_args=TINY["resnet"])
  data, apply = rows_of(model), state_lib.make_apply(model)
  variables = model.init(jax.random.key(0), batch_lib.zeros(model.spec()))
  whole, _ = apply(variables, data)
  alone = {k: v for k, v in variables["params"].items() if k != "predict_head"}
  stats = {k: v for k, v in variables["batch_stats"].items() if k != "predict_head"}
  teacher = {"params": alone, "batch_stats": stats}
  out, new = apply(teacher, data, train=True, method="project")
  assert set(out) == {"image_features", "projection"}
  assert set(new["batch_stats"]) == set(stats)
  out, _ = apply(teacher, data, method="project")
  np.testing.assert_allclose(out["projection"], whole["projection"], rtol=1e-5)
  out, _ = apply(teacher, data, method="encode")
  assert set(out) == {"image_features"}
  # Collections that are not the model's pass unnoticed.
  more = variables | {"teacher": teacher, "queue": {"pointer": jnp.zeros((), int)}}
  np.testing.assert_array_equal(apply(more, data)[0]["projection"], whole["projection"])


@pytest.mark.slow
def test_a_head_of_clusters_stands_beside_the_projector():
  """Its logits are a linear map of normalised features; rounds start it anew."""
  model = make(tower="audio_resnet", tower_args=SMALL_RESNET, clusters=5)
  data = rows_of(model, rows=6) | {"example_id": np.arange(6, dtype=np.int32)}
  apply = state_lib.make_apply(model)
  variables = model.init(jax.random.key(0), batch_lib.zeros(model.spec()))
  head = variables["params"]["cluster_heads_audio_by_audio"]["kernel"]
  kernel = np.asarray(getattr(head, "value", head))
  out, _ = apply(variables, data, train=True)
  x = np.delete(np.asarray(out["audio_features"]), 2, 0)
  want = (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) @ kernel
  got = np.asarray(out["audio_by_audio_logits"])
  np.testing.assert_allclose(np.delete(got, 2, 0), want, atol=1e-4)
  assert not got[2].any()
  table = cluster.xdc_round.init(
    variables, num_examples=6, clusters=5, labels=("audio",)
  )
  table["clusters"]["audio"] = jnp.array([0, 1, 2, 3, -1, 4])
  given = dict(towers=("audio",), balance=False)
  variables = {**variables, **table}
  terms, _, _ = cluster.sdc(apply, variables, data, jax.random.key(0), **given)
  rows, label = [0, 1, 3, 5], [0, 1, 3, 4]  # one is not real, one has no cluster
  logp = jax.nn.log_softmax(got[rows])
  assert float(terms["audio_by_audio"].weight) == 4
  mine = -np.asarray(logp)[np.arange(4), label].sum()
  assert float(terms["audio_by_audio"].total) == pytest.approx(mine, rel=1e-4)
  views = dict(gain=dict(db=(0.0, 0.0)), polarity=dict(p=1.0))  # nothing is heard of it
  seen, _, _ = cluster.sdc(
    apply, variables, data, jax.random.key(0), views=views, **given
  )
  assert float(seen["audio_by_audio"].total) == pytest.approx(mine, rel=1e-3)
  views = dict(speed=dict(factors=(1.5, 1.6)))
  seen, _, _ = cluster.sdc(
    apply, variables, data, jax.random.key(0), views=views, **given
  )
  assert abs(float(seen["audio_by_audio"].total) / mine - 1) > 1e-4


def test_pictures_come_as_clips_of_one_frame():
  model = make(tower_args=TINY["resnet"])
  data = rows_of(model)
  variables = model.init(jax.random.key(0), batch_lib.zeros(model.spec()))
  want = model.apply(variables, data)
  clips = {
    "video_frames": data["image_pixels"][:, None],
    "video_mask": data["image_mask"][:, None],
  }
  for key, x in model.apply(variables, clips).items():
    np.testing.assert_allclose(x, want[key], atol=1e-6)
  # uint8 and floats in 0..1 are the same pictures.
  floats = data | {"image_pixels": data["image_pixels"].astype(np.float32) / 255}
  out = model.apply(variables, floats)
  np.testing.assert_allclose(out["projection"], want["projection"], atol=1e-5)
  two = {"video_frames": np.zeros((2, 3, 32, 32, 3), np.uint8)}
  with pytest.raises(ValueError, match="num_frames=1"):
    model.apply(variables, two)
  with pytest.raises(KeyError, match="finds no image"):
    model.apply(variables, {"text_ids": np.zeros((2, 3), np.int32)})


def test_heads_are_their_formulas():
  """Each form of the projector against numpy, with batch statistics."""
  x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)

  def norm(x):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5)

  forms = {
    "simclr_r50": lambda p: norm(np.maximum(norm(x @ p[0]), 0) @ p[1]),
    "moco_v1": lambda p: x @ p[0],
    "moco_v2": lambda p: np.maximum(x @ p[0], 0) @ p[1],
    "byol_r50": lambda p: np.maximum(norm(x @ p[0]), 0) @ p[1],
  }
  for variant, form in forms.items():
    given = siamese.VARIANTS[variant]["projector"] | dict(dim=3)
    head = mlp.Mlp(**given | (dict(hidden=4) if "hidden" in given else {}))
    params = head.init(jax.random.key(1), x)
    out, _ = head.apply(params, x, train=True, mutable=["batch_stats"])
    dense = params["params"]
    kernels = [np.array(dense[k]["kernel"]) for k in sorted(dense) if "dense" in k]
    np.testing.assert_allclose(out, form(kernels), atol=2e-5, err_msg=variant)


def test_blocks_start_as_the_identity_where_asked():
  x = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
  for zero_last, same in ((True, True), (False, False)):
    outs = []
    for depths in ((1,), (2,)):  # the second block of a stage keeps its input
      tower = image_resnet.ImageResNet(depths, (8,), 4, zero_last=zero_last)
      variables = tower.init(jax.random.key(0), x)
      outs.append(np.array(tower.apply(variables, x)["features"]))
    assert np.allclose(*outs) == same


def test_mean_and_deviation_are_taken_off():
  x = np.random.default_rng(0).uniform(size=(2, 16, 16, 3)).astype(np.float32)
  plain = image_resnet.ImageResNet(**SMALL_RESNET)
  given = dict(mean=image_resnet.MEAN, std=image_resnet.STD)
  variables = plain.init(jax.random.key(0), x)
  want = plain.apply(variables, (x - np.array(given["mean"])) / np.array(given["std"]))
  got = image_resnet.ImageResNet(**SMALL_RESNET, **given).apply(variables, x)
  np.testing.assert_allclose(got["features"], want["features"], rtol=1e-5, atol=1e-6)


def test_mistakes_are_told():
  spec = lambda model: shapes(model)
  with pytest.raises(ValueError, match="tower is 'vgg'"):
    siamese.Model(tower="vgg").init(jax.random.key(0), {})
  with pytest.raises(UserError, match="Did you mean 'depths'"):
    spec(make(tower_args=dict(depth=(1,))))
  with pytest.raises(UserError, match="Did you mean 'hidden'"):
    spec(make(projector=dict(dim=8, hiden=3)))
