import numpy as np
import pytest

from tests import helpers
from vlp_jax.importers import surgery, uniter
from vlp_jax.models import uniter as models

SMALL = dict(
  vocab_size=120,
  width=32,
  depth=3,
  num_heads=4,
  mlp_dim=64,
  region_dim=24,
  region_classes=11,
  max_positions=40,
)


@pytest.fixture(scope="module")
def weights():
  return helpers.golden("uniter_pretrain")[0]


def leaf(variables, path):
  node = variables["params"]
  for name in path.split("/"):
    node = node[name]
  return node


def test_prefixes_and_old_names_make_no_difference(weights):
  model = models.Model(**SMALL)
  want, _ = uniter.convert(weights, model)
  old = {}
  for name, x in weights.items():
    if "LayerNorm" in name:
      name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
    old[f"module.{name}"] = x
  got, report = uniter.convert(old, model)
  assert "encoder/stack/layers/attention/qkv/kernel" in report.reshaped
  for path in report.loaded:
    np.testing.assert_array_equal(leaf(got, path), leaf(want, path))


def test_a_bert_start_leaves_the_image_parts(weights):
  text = ("uniter.embeddings", "uniter.encoder", "uniter.pooler", "cls.")
  bert = {
    k.replace("uniter.", "bert."): x for k, x in weights.items() if k.startswith(text)
  }
  bert["cls.seq_relationship.weight"] = np.zeros((2, 32), np.float32)
  bert["bert.embeddings.position_ids"] = np.arange(40)
  variables, report = uniter.convert(bert, models.Model(**SMALL))
  assert report.unused == ("cls.seq_relationship.weight",)
  parts = {path.split("/")[0] for path in report.missing}
  assert parts == {"embed_regions", "head_itm", "head_mrc", "head_mrfr"}
  words = leaf(variables, "embed_text/words")
  np.testing.assert_array_equal(
    words, weights["uniter.embeddings.word_embeddings.weight"]
  )


def test_unexplained_leftovers_are_errors(weights):
  model = models.Model(**SMALL)
  with pytest.raises(ValueError, match=r"not used by the model: uniter\.extra"):
    uniter.convert(weights | {"uniter.extra": np.zeros(3)}, model)
  part = {k: x for k, x in weights.items() if "region_classifier.net.3" not in k}
  with pytest.raises(KeyError, match=r"region_classifier\.net\.3"):
    uniter.convert(part, model)
  with pytest.raises(ValueError, match="more than the model's 2 layers"):
    uniter.convert(weights, models.Model(**(SMALL | {"depth": 2})))
  with pytest.raises(ValueError, match="shapes differ"):
    uniter.convert(weights, models.Model(**(SMALL | {"region_classes": 12})))
  untied = weights | {"cls.predictions.decoder.weight": np.zeros((120, 32))}
  with pytest.raises(ValueError, match="tied"):
    uniter.convert(untied, model)


def test_downstream_surgery(weights):
  model = models.Model(**(SMALL | dict(heads=("pair",), type_vocab=3)))
  variables, report = uniter.convert(weights, model)
  types = leaf(variables, "embed_text/types")
  np.testing.assert_array_equal(types[2], types[1])
  assert report.missing == ("head_pair/dense/bias", "head_pair/dense/kernel")
  assert len(report.surgery) == 1
  vcr = SMALL | dict(heads=("vcr",), type_vocab=4, vocab_size=125, max_positions=30)
  variables, report = uniter.convert(weights, models.Model(**vcr))
  types = leaf(variables, "embed_text/types")
  np.testing.assert_array_equal(types[2:], np.stack([types[0]] * 2))
  assert leaf(variables, "embed_text/words").shape == (125, 32)
  assert leaf(variables, "embed_text/positions").shape == (30, 32)
  assert len(report.surgery) == 3


def test_ranking_head_out_of_the_matching_head(weights):
  model = models.Model(**(SMALL | dict(heads=("rank",))))
  variables, report = uniter.convert(weights, model)
  want = weights["itm_output.weight"][1:].T
  np.testing.assert_array_equal(leaf(variables, "head_rank/dense/kernel"), want)
  assert report.missing == ()
  own = {"rank_output.weight": want.T + 1, "rank_output.bias": np.zeros(1)}
  variables, _ = uniter.convert(weights | own, model)
  np.testing.assert_array_equal(leaf(variables, "head_rank/dense/kernel"), want + 1)
  variables, _ = uniter.convert(weights | own, model, rank_from_itm=True)
  np.testing.assert_array_equal(leaf(variables, "head_rank/dense/kernel"), want)
  _, report = uniter.convert(weights, model, rank_from_itm=False)
  assert report.missing == ("head_rank/dense/bias", "head_rank/dense/kernel")


def test_positions_and_answers():
  table = np.arange(6.0).reshape(3, 2)
  np.testing.assert_array_equal(surgery.positions(table, 2, how="cut"), table[:2])
  np.testing.assert_array_equal(
    surgery.positions(table, 5, how="linear"),
    np.arange(10.0).reshape(5, 2) / 2 + [0, 0.5],
  )
  assert (surgery.positions(table, 4, how="zeros")[3] == 0).all()
  with pytest.raises(ValueError, match="how='cut'"):
    surgery.positions(table, 4, how="cut")
  with pytest.raises(ValueError, match="rows"):
    surgery.rows(table, 4, {})
  kernel, bias, new = surgery.answers(
    np.array([[1.0, 2.0]]), np.array([3.0, 4.0]), ["no", "yes"], ["yes", "two", "no"]
  )
  np.testing.assert_array_equal(kernel, [[2, 0, 1]])
  np.testing.assert_array_equal(bias, [4, 0, 3])
  assert new == ("two",)
