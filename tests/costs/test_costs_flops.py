"""FLOPs by formula against counts written out by hand, and against XLA's own."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.reference import flops as flops_reference
from tests.reference import networks
from vlp_jax import batch as batch_lib
from vlp_jax import costs, resolve
from vlp_jax.costs import dots, families, flops, inputs
from vlp_jax.errors import UserError
from vlp_jax.objectives import masked, match

shape = jax.ShapeDtypeStruct
# Places (t, h, w) and multiply-adds a place of every stage of S3D-G at 32 x 224 x 224.
S3D = (
  ((17, 113, 113), 32 * 24 * 64),  # the folded stem, 2 x 4 x 4 of 24 channels
  ((16, 56, 56), 64 * 64),
  ((16, 56, 56), 9 * 64 * 192 + 3 * 192 * 192),
  ((16, 28, 28), 192 * 64 + 192 * 96 + 192 * 16 + 192 * 32),
  ((16, 28, 28), 9 * 96 * 128 + 3 * 128 * 128 + 9 * 16 * 32 + 3 * 32 * 32),
  ((16, 28, 28), 256 * (128 + 128 + 32 + 64)),
  ((16, 28, 28), 9 * 128 * 192 + 3 * 192 * 192 + 9 * 32 * 96 + 3 * 96 * 96),
  ((8, 14, 14), 480 * (192 + 96 + 16 + 64)),
  ((8, 14, 14), 9 * 96 * 208 + 3 * 208 * 208 + 9 * 16 * 48 + 3 * 48 * 48),
  ((8, 14, 14), 512 * (160 + 112 + 24 + 64)),
  ((8, 14, 14), 9 * 112 * 224 + 3 * 224 * 224 + 9 * 24 * 64 + 3 * 64 * 64),
  ((8, 14, 14), 512 * (128 + 128 + 24 + 64)),
  ((8, 14, 14), 9 * 128 * 256 + 3 * 256 * 256 + 9 * 24 * 64 + 3 * 64 * 64),
  ((8, 14, 14), 512 * (112 + 144 + 32 + 64)),
  ((8, 14, 14), 9 * 144 * 288 + 3 * 288 * 288 + 9 * 32 * 64 + 3 * 64 * 64),
  ((8, 14, 14), 528 * (256 + 160 + 32 + 128)),
  ((8, 14, 14), 9 * 160 * 320 + 3 * 320 * 320 + 9 * 32 * 128 + 3 * 128 * 128),
  ((4, 7, 7), 832 * (256 + 160 + 32 + 128)),
  ((4, 7, 7), 9 * 160 * 320 + 3 * 320 * 320 + 9 * 32 * 128 + 3 * 128 * 128),
  ((4, 7, 7), 832 * (384 + 192 + 48 + 128)),
  ((4, 7, 7), 9 * 192 * 384 + 3 * 384 * 384 + 9 * 48 * 128 + 3 * 128 * 128),
)


def uniter(variant="base", **keys):
  given = dict(name="uniter", variant=variant) | keys
  return resolve.model(given, inject={"vocab_size": 28_996})


def pairs(model, rows, text, regions):
  given = {"rows": rows, "max_words": text, "max_regions": regions}
  return inputs.batch(model, given)


def clips(model, rows, frames, size, candidates=5, words=16):
  given = dict(task="narrated_clips", rows=rows, num_frames=frames, size=size)
  return inputs.batch(model, given | dict(candidates=candidates, max_words=words))


def test_uniter_base_is_what_paper_and_pencil_say():
  """54 tokens: 15 of text and 39 regions, two words to predict: 9.5 GFLOP."""
  width = 768
  layer = 54 * 2 * (4 * width**2 + 2 * width * 3072) + 2 * 2 * 54 * 54 * width
  regions = 39 * 2 * (2048 + 7) * width
  head = 2 * 2 * (width**2 + width * 28_996)
  hand = 12 * layer + regions + head
  assert hand == pytest.approx(9.5e9, rel=0.02)
  model = uniter()
  lengths = {"masked": 2.0}
  objective = families.Objective.of(functools.partial(masked.mlm, vocab=None))
  batch = pairs(model, 8, 15, 39)
  parts = families.of(model).forward(model, batch, lengths, objective)
  assert sum(parts.values()) / 8 == pytest.approx(hand, rel=1e-9)
  tokens = 8 * 54
  useful = costs.useful_flops(
    model, batch, tokens, objective=functools.partial(masked.mlm, vocab=None)
  )
  assert useful / 3 / 8 == pytest.approx(hand, rel=0.01)  # 15 % of 13 words
  assert flops.TRAINING == 3


def test_s3d_is_what_paper_and_pencil_say():
  model = resolve.model({"name": "mil_nce"}, inject={"vocab_size": 66_250})
  hand = sum(2 * t * h * w * each for (t, h, w), each in S3D)
  assert hand == pytest.approx(74.2e9, rel=0.005)
  parts = families.of(model).forward(model, clips(model, 4, 32, 224), None, None)
  video = sum(x for k, x in parts.items() if k.startswith("video/")) / 4
  # The gates and the last layer, once a clip, are no part of the table.
  assert video == pytest.approx(hand, rel=2e-4)
  assert parts["video/stem"] == 4 * 2 * 17 * 113 * 113 * 32 * 24 * 64
  words = 5 * 2 * (16 * 300 * 2048 + 2048 * 512)
  assert parts["text"] == pytest.approx(4 * words)


def test_i3d_is_what_loops_over_its_table_say():
  given = {"name": "mil_nce", "variant": "i3d"}
  model = resolve.model(given, inject={"vocab_size": 66_250})
  for frames, size in ((32, 224), (32, 200)):
    parts = families.of(model).forward(model, clips(model, 2, frames, size), None, None)
    video = sum(x for k, x in parts.items() if k.startswith("video/")) / 2
    hand = networks.i3d(frames, size) + networks.dense(1024, 512)
    assert video == pytest.approx(hand, rel=1e-9)
  assert networks.i3d(32, 224) == pytest.approx(111.2e9, rel=1e-3)


@pytest.mark.parametrize("name", ["uniter", "mil_nce"])
def test_formulas_agree_with_xla(name):
  """A forward pass as lowered: XLA counts norms, softmax, GELU as well, but not the
  zeros of a convolution's padding.
  """
  if name == "uniter":  # one layer: XLA counts the body of a loop once
    model = uniter("mu", depth=1, width=256, region_dim=512, heads=("mlm", "mrfr"))
    batch = pairs(model, 4, 16, 24)
    batch.pop("fuse_index")
    batch["mlm_positions"] = shape((4, 8), jnp.int32)
  else:
    given = {"name": "mil_nce", "variant": "quick"}
    model = resolve.model(given, inject={"vocab_size": 100})
    batch = clips(model, 2, 8, 64)
  variables = jax.eval_shape(
    model.init, jax.random.key(0), batch_lib.zeros(model.spec())
  )
  plain = jax.tree.map(lambda x: shape(x.shape, x.dtype), jax.tree.leaves(variables))
  tree = jax.tree.structure(variables)

  def run(leaves, batch):
    return model.apply(jax.tree.unflatten(tree, leaves), batch)

  analysis = jax.jit(run).lower(plain, batch).cost_analysis()
  parts = families.of(model).forward(model, batch, None, None)
  assert sum(parts.values()) == pytest.approx(analysis["flops"], rel=0.1)
  traced = flops_reference.of(run, plain, batch)  # which the other families are held to
  assert sum(parts.values()) == pytest.approx(traced, rel=1e-3)


def test_useful_is_a_share_of_what_is_computed():
  model = uniter("mu")
  batch = pairs(model, 8, 20, 20)
  all_of = costs.useful_flops(model, batch)
  half = costs.useful_flops(model, batch, 8 * 20)
  assert 0.4 < half / all_of < 0.5  # attention shrinks twice
  forward = families.of(model).forward
  itm = families.Objective.of(functools.partial(match.itm, wra_coef=0.1))
  assert {"itm", "pooler", "alignment"} <= set(forward(model, batch, None, itm))
  plain = families.Objective.of(functools.partial(match.itm, wra_coef=0.0))
  assert "alignment" not in forward(model, batch, None, plain)
  kl = families.Objective.of(masked.mrc_kl)
  padded, useful = (forward(model, batch, x, kl)["mrc"] for x in (None, {}))
  assert useful == pytest.approx(0.15 * padded)


def test_recompute():
  batch = pairs(uniter("mu"), 8, 20, 20)
  again = {}
  for remat in ("none", "dots", "full"):
    model = uniter("mu", remat=remat)
    again[remat] = families.of(model).recomputed(model, batch, None)
  blocks = families.of(model).forward(model, batch, None, None)["blocks"]
  assert again["none"] == 0 < again["dots"] < again["full"] == blocks


def test_what_has_no_formula_is_said():
  class Stranger:
    pass

  with pytest.raises(UserError, match="no FLOPs formula for model"):
    families.of(Stranger())
  model = uniter("mu")
  other = families.Objective("masked:mln", {})
  with pytest.raises(UserError, match="Did you mean 'masked:mlm'"):
    families.of(model).forward(model, pairs(model, 8, 4, 4), None, other)


def test_matmuls_by_type():
  def f(a, b, x, k):
    y = jnp.einsum("bij,bjk->bik", a, b)
    z = jax.lax.conv_general_dilated(
      x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return y, z

  half = lambda *s: shape(s, jnp.bfloat16)
  args = half(2, 3, 4), half(2, 4, 5), shape((1, 5, 5, 2), jnp.float32)
  text = jax.jit(f).lower(*args, shape((3, 3, 2, 7), jnp.float32)).as_text()
  assert dots.by_dtype(text) == {
    "bf16": {"count": 1, "flops": 2 * 2 * 3 * 4 * 5, "largest": [2, 3, 5]},
    "f32": {"count": 1, "flops": 2 * 9 * 9 * 2 * 7, "largest": [1, 3, 3, 7]},
  }


def test_executed_convolutions_of_a_compiled_program():
  def fn(x, k, w):
    x = jax.lax.conv_general_dilated(
      x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.lax.fori_loop(0, 3, lambda _, y: y @ w, x.reshape(9, 7))

  args = [shape(s, jnp.float32) for s in ((1, 5, 5, 2), (3, 3, 2, 7), (7, 7))]
  text = jax.jit(fn).lower(*args).compile().as_text()
  assert dots.executed(text) == 2 * (9 * 9 * 2 * 7 + 3 * 9 * 7 * 7)
  # A number of the result has all of a group's channels, whatever the labels' order.
  line = "%c.1 = f32[1,7,3,3]{3,2,1,0} convolution(%a, f32[7,2,3,3]{3,2,1,0} %b), "
  line += "window={size=3x3}, dim_labels=bf01_oi01->bf01"
  kernel = "%b = f32[7,2,3,3]{3,2,1,0} parameter(1)"
  module = f"ENTRY %main {{\n  {kernel}\n  ROOT {line}\n}}\n"
  assert dots.executed(module) == 2 * 9 * 7 * 9 * 2


@pytest.mark.parametrize(
  ("kind", "want"),
  [("TPU v5 lite", 197e12), ("TPU v5", 459e12), ("NVIDIA H200", 989e12), ("cpu", 0)],
)
def test_peaks(kind, want):
  chip = types.SimpleNamespace(device_kind=kind)
  mesh = types.SimpleNamespace(devices=np.array([chip] * 4), size=4)
  assert costs.peak(mesh) == 4 * want


def test_a_meter_of_running_steps():
  model = uniter("mu")
  shapes = pairs(model, 8, 6, 4)
  batch = {k: jnp.ones(s.shape, s.dtype) for k, s in shapes.items()}
  batch["text_mask"] = batch["text_mask"].at[:, 3:].set(False)
  tokens = batch_lib.useful(batch)[1]
  assert int(tokens) == 8 * (3 + 4)
  tasks = {"mlm": functools.partial(masked.mlm, vocab=None), "new": lambda: None}
  meter = costs.meter(model, tasks)
  want = costs.useful_flops(model, shapes, 56, objective=tasks["mlm"])
  padded = costs.useful_flops(model, shapes, objective=tasks["mlm"])
  assert meter("mlm", batch, int(tokens)) == (want, padded)
  assert 0 < want < padded
  assert meter("new", batch, int(tokens)) == (0.0, 0.0)
