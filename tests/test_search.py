"""A text finds what the evaluator finds for it; launch.demo as a user runs it."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests import test_extract_and_cluster as commands
from vlp_jax import batch, evaluate, resolve, restore, search, settings, sharding, state
from vlp_jax.errors import UserError
from vlp_jax.evaluators import collect

VIDEOS = dict(fields=("video", "label"), text="none", split="test")
TEXTS = dict(fields=("label",), text="caption", split="test")
RUN = dict(
  model=dict(name="mil_nce", variant="mu"),
  tasks=dict(mil_nce=dict(objective="contrastive:mil_nce")),
  vocab=dict(name="words", file="synthetic/narrated/vocab.txt"),
  input=dict(task="narrated_clips", dir="synthetic/narrated", split="train", rows=8),
  evals=dict(
    loss=dict(evaluator="loss", batches=dict(split="test")),
    retrieval=dict(evaluator="retrieval", texts=TEXTS, videos=VIDEOS),
    cosine=dict(evaluator="retrieval", normalise=True, texts=TEXTS, videos=VIDEOS),
  ),
  optim=dict(name="adam", lr=1e-3),
  total_steps=1,
)
RUN["input"] |= dict(num_frames=4, frame_rate=2.0, size=32)


@pytest.fixture(scope="module")
def exported(twins, tmp_path_factory):
  """(path, settings, vocabulary, module, variables) of a run as it began."""
  at = tmp_path_factory.mktemp("run") / "export"
  s = settings.load(settings.with_twins(settings.plain(RUN)))
  vocab, tokeniser = settings.vocabulary(s)
  model = resolve.model(s.model, inject={"vocab": vocab, "vocab_size": vocab.size})
  init = jax.jit(lambda: model.init(jax.random.key(0), batch.zeros(model.spec())))
  variables = nn.unbox(init())
  restore.export(at, variables, config=settings.plain(RUN))
  return str(at), s, tokeniser, model, variables


@pytest.mark.parametrize("name", [pytest.param("", marks=pytest.mark.slow), "cosine"])
def test_a_text_finds_what_the_evaluator_finds(exported, name):
  at, s, tokeniser, model, variables = exported
  gallery = search.Gallery(at, name=name)
  assert gallery.name == (name or "retrieval")
  parts = (s, state.make_apply(model), sharding.mesh({}), tokeniser)
  own = dict(objectives=dict.fromkeys(s.tasks), vocab=tokeniser.spec)
  evaluator = evaluate.build(*parts, **own)[gallery.name]
  dict(evaluator.run(variables))
  queries = {e["query"] for e in evaluator.examples}
  texts = collect.rows(evaluator.texts, queries, ("text_ids",))
  for e in evaluator.examples:
    text = tokeniser.decode(texts[e["query"]]["text_ids"].tolist())
    found = gallery.find(text, 5)
    np.testing.assert_allclose([f.score for f in found], e["scores"], atol=1e-4)
    assert [f.item for f in found] == e["ranked"]


@pytest.mark.slow
def test_items_are_embedded_once_for_the_same_weights(exported, tmp_path):
  at, *_, variables = exported
  seen = []
  track = lambda batches, total: (seen.append(1) or b for b in batches)
  search.Gallery(at, track=track)
  first = len(seen)
  gallery = search.Gallery(at, track=track)
  assert len(seen) == first
  other = jax.tree.map(lambda x: x + 0.01, variables)
  restore.export(tmp_path / "other", other, config=settings.plain(RUN))
  (tmp_path / "other" / "search").mkdir()
  kept = restore.workdir.root(at) / "search" / "retrieval.npz"
  kept.copy(tmp_path / "other" / "search" / "retrieval.npz")
  moved = search.Gallery(str(tmp_path / "other"), track=track)
  assert len(seen) > first
  assert np.abs(moved.embeds - gallery.embeds).max() > 1e-4


def test_mistakes_are_named(exported, tmp_path):
  at, *_ = exported
  with pytest.raises(UserError, match="no word of 'qqq'"):
    search.Gallery(at).find("qqq")
  with pytest.raises(UserError, match=r"'loss'.*cosine, retrieval"):
    search.Gallery(at, name="loss")
  with pytest.raises(UserError, match=r"no config\.json"):
    search.Gallery(str(tmp_path))


@pytest.mark.slow
def test_the_command(exported, capsys):
  at, *_ = exported
  told = commands.run("launch.demo", "--workdir", at, "--query", "a red circle")
  assert "what is said of it" in told
  page = (restore.workdir.root(at) / "search.html").read_text()
  assert page.count("data:image/jpeg") == 6
  assert "wrong" not in page.partition("<body")[2]
  wrong = commands.run("launch.demo", "--workdir", at, "--query", "qqq", code=2)
  assert wrong.count("\n") == 1
