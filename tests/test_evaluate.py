"""init_from: parameters of another run, and whether their ids mean the same here."""

import dataclasses

import jax
import numpy as np
import optax
import pytest

from tests import filled
from vlp_jax import cluster_tree, evaluate, resolve, restore, sharding, snapshot
from vlp_jax import state as state_lib
from vlp_jax.errors import CheckpointError, UserError
from vlp_jax.importers import bert as bert_importer
from vlp_jax.models import bert
from vlp_jax.vocab import Vocab

VOCAB = Vocab(
  40, cls_id=1, sep_id=2, mask_id=3, special_ids=(0, 1, 2, 3), valid_range=(4, 40)
)
ONE, OTHER = (dataclasses.replace(VOCAB, digest=d * 64) for d in "ab")


def tree(shift=0.0):
  rng = np.random.default_rng(0)
  levels = [rng.normal(size=(4,) * i + (24,)) + shift for i in (1, 2)]
  used = tuple(np.ones(x.shape[:-1], bool) for x in levels)
  return cluster_tree.Tree(tuple(x.astype(np.float32) for x in levels), used)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
  """(fresh state, model, shardings) of VideoBERT and what another run of it left."""
  model = resolve.model(dict(name="videobert", variant="mu"), inject={"vocab": VOCAB})
  mesh = sharding.mesh(None, jax.devices()[:1])
  made = state_lib.init(model, lambda _: optax.identity(), mesh)
  state, at = made[0](), tmp_path_factory.mktemp("run") / "weights"
  identities = snapshot.identities(ONE, None, {"tree": tree()})
  one = jax.tree.map(lambda x: np.asarray(x) + 1, state.variables)
  restore.export(at, one, config={}, identities=identities)
  return state, model, made[2], str(at)


def start(run, *, vocab=ONE, trees=None, **given):
  state, model, shardings, at = run
  given = dict(path=at) | given
  trees = {"tree": tree()} if trees is None else trees
  return evaluate.init_from(state, given, model, shardings, vocab=vocab, trees=trees)


def changed(run, new):
  old = evaluate.flat(run[0].params)
  return {k for k, x in evaluate.flat(new.params).items() if (x != old[k]).any()}


def test_a_run_of_the_same_words_and_tokens_is_taken(run):
  assert changed(run, start(run)) == {*evaluate.flat(run[0].params)}
  start(run, vocab=VOCAB, trees={})  # what only one of both knows is no difference


def test_other_words_or_tokens_are_refused_unless_meant(run):
  with pytest.raises(CheckpointError, match=r"^vocabulary of .* 40 entries.*override"):
    start(run, vocab=OTHER)
  moved = {"tree": tree(1.0)}
  with pytest.raises(CheckpointError, match=r"^tree of .* 16 entries.*override"):
    start(run, trees=moved)
  assert changed(run, start(run, vocab=OTHER, trees=moved, override=True))


def test_a_part_without_a_row_for_each_id_may_be_of_others(run):
  moved = {"tree": tree(1.0)}
  layers = start(run, vocab=OTHER, trees=moved, only="encoder/|pooler/")
  assert changed(run, layers)
  assert all(k.split("/")[0] in ("encoder", "pooler") for k in changed(run, layers))
  start(run, trees=moved, only="embed_text/")
  start(run, vocab=OTHER, only="video_tokens$|token_bias$")
  for only in ("embed_text/", "encoder/|embed_text/words", "mlm_head/bias"):
    with pytest.raises(CheckpointError, match=r"^vocabulary of"):
      start(run, vocab=OTHER, only=only)
  for only in ("video_tokens$", "mlm_head/token_bias"):
    with pytest.raises(CheckpointError, match=r"^tree of"):
      start(run, trees=moved, only=only)


def test_the_centroids_must_be_those_of_the_inputs(run, tmp_path):
  at, words = str(tmp_path / "tree.npz"), str(tmp_path / "bert.npz")
  tree().save(at)
  net = bert.Model(vocab_size=40, **bert.VARIANTS["mu"])
  np.savez(words, **bert_importer.export(filled.variables(net)))
  alone = dict(path=at, importer="videobert", scale="words")
  assert changed(run, start(run, **alone)) == {"video_tokens"}
  moved = {"tree": tree(1.0)}
  for given in (alone, dict(path=words, tokens=at, importer="videobert")):
    assert "video_tokens" in changed(run, start(run, **given))
    with pytest.raises(CheckpointError, match="ids of one tree mean nothing in ano"):
      start(run, trees=moved, **given)
    start(run, trees=moved, override=True, **given)


def test_mistakes_are_a_line(run, tmp_path):
  cases = [
    (dict(path=""), "path is missing"),
    (dict(scale="words"), "keywords of an importer"),
    (dict(importer="videobret"), "Did you mean 'videobert'"),
    (dict(importer="videobert", token="x"), "init_from: unknown key 'token'"),
    (dict(importer="videobert", scale="much"), "importer 'videobert': scale='much'"),
    (dict(importer="bert"), "importer 'bert': "),
  ]
  np.savez(tmp_path / "x.npz", centroids=np.zeros((3, 24), np.float32))
  few = dict(path=str(tmp_path / "x.npz"), importer="videobert")
  cases.append((few, "the tree has 3 leaves of width 24"))
  for given, message in cases:
    with pytest.raises(UserError, match=message) as error:
      start(run, **given)
    assert "\n" not in str(error.value)
