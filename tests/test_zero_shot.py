"""Evaluators on a checkpoint as it is: presets, mean of windows, other vocabularies."""

import importlib

import flax.linen as nn
import jax
import numpy as np
import pytest

from tests import helpers
from tests.test_probe_configs import load
from vlp_jax import batch, resolve, restore, snapshot, train, zero_shot
from vlp_jax import settings as settings_lib
from vlp_jax.errors import CheckpointError, UserError
from vlp_jax.vocab import Vocab

NAMES = ("msrvtt", "rareact", "youcook2")
MIL_NCE = [f"configs/mil_nce/{name}.py" for name in NAMES]
FILES = [*MIL_NCE, *(f"configs/{s}/crosstask.py" for s in ("howto100m", "mil_nce"))]
FILES += ["configs/howto100m/retrieval.py", "configs/videobert/youcook2.py"]
FORMS = [f"{p}:{form}" for p in MIL_NCE for form in ("code", "runlocal")]
FORMS += [f"configs/howto100m/retrieval.py:data={d}" for d in ("msrvtt", "lsmdc")]
FORMS += ["configs/videobert/youcook2.py:runlocal"]
FORMS += ["configs/mil_nce/msrvtt.py:choice", "configs/mil_nce/msrvtt.py:choice,code"]
TINY = dict(space_to_depth=(), stem_window=(2, 4, 4), stem_strides=(2, 4, 4), stages=())


@pytest.mark.parametrize("path", [*FILES, *FORMS])
def test_every_keyword_is_known(path):
  pipelines = resolve.module("data_pipelines", "batches")
  job = resolve.bind(zero_shot.Job, load(path), what="config")()
  for name, given in job.evals.items():
    settings_lib.evaluator(name, given)
  for what, given in job.inputs().items():
    pipelines.check(given, f"{path} {what}")
    samples = (given.get("num_frames"), given.get("frame_rate"))
    if "code" in path and "windows" in given:
      assert samples == (16, 5.0)
      assert given["margin_s"] == 0.4
    elif "windows" in given and "runlocal" not in path:
      assert samples == (32, 10.0)
      assert given["windows"] == 4


@pytest.mark.parametrize("path", FILES)
def test_every_preset_says_how_to_run_it(path):
  text = (helpers.ROOT / path).read_text()
  for part in ("Command:", "Data:", "Protocol:", "Paper:", "--checkpoint X"):
    assert part in text


@pytest.fixture(scope="module")
def made(tmp_path_factory, twins):
  """(model, its variables, weights on disk, vocabulary)."""
  at = tmp_path_factory.mktemp("weights") / "tiny"
  words = dict(name="words", file="synthetic/narrated/vocab.txt")
  given = dict(name="mil_nce", variant="mu", **TINY)
  plain = settings_lib.with_twins({"vocab": words})["vocab"]
  vocab = importlib.import_module("data_pipelines.vocabularies").build(plain)
  model = resolve.model(
    given, inject=dict(vocab=vocab.spec, vocab_size=vocab.spec.size)
  )
  variables = jax.jit(model.init)(jax.random.key(0), batch.zeros(model.spec()))
  variables = nn.unbox(variables)
  identities = snapshot.identities(vocab.spec, None)
  config = dict(model=given, vocab=words, total_steps=7)
  restore.export(at, variables, config=config, identities=identities)
  return model, variables, at, vocab


def recall(text, video, k):
  """One query after the other; of equals the others come first."""
  hits = []
  for n, (_, own) in enumerate(text):
    scores = {v: float(text[n][0] @ x) for v, x in video.items()}
    ahead = [v for v, s in scores.items() if v != own and not s < scores[own]]
    hits.append(len(ahead) < k)
  return np.mean(hits)


def test_retrieval_by_the_mean_of_windows(made, tmp_path):
  model, variables, at, vocab = made
  config = load("configs/mil_nce/youcook2.py:runlocal,windows=2")
  found = zero_shot.run(config, tmp_path / "job", at, devices=jax.devices()[:1])
  pipelines = importlib.import_module("data_pipelines.batches")
  config = settings_lib.with_twins(config)
  parts = config["evals"]["retrieval"]
  run = jax.jit(model.apply)
  texts, windows = [], {}
  for part in ("texts", "videos"):
    given = dict(config["input"]) | dict(parts[part])
    for b in pipelines.evaluation(given, vocab=vocab):
      out = run(variables, {k: v for k, v in b.items() if k[:4] in ("text", "vide")})
      for i in np.flatnonzero(b["example_mask"]):
        if part == "texts":
          texts.append((out["text_embed"][i], int(b["relevance"][i])))
        else:
          windows.setdefault(int(b["group_id"][i]), []).append(out["video_embed"][i])
  assert {len(w) for w in windows.values()} == {2}
  video = {v: np.mean(w, axis=0) for v, w in windows.items()}
  for k in (1, 5, 10):
    assert found[f"retrieval/t2v_recall@{k}"].value == pytest.approx(
      recall(texts, video, k)
    )
  assert found["retrieval/t2v_recall@1"].n == len(texts)
  assert (tmp_path / "job/results.json").exists()


@pytest.mark.slow
def test_verbs_and_objects_of_captions(twins, tmp_path):
  """VideoBERT's preset on its generated clips, with weights that learned nothing."""
  trained = load("configs/videobert/pretrain.py:runlocal")
  trained["tensorboard"] = False
  train.run(trained, tmp_path / "run", devices=jax.devices()[:1])
  config = load("configs/videobert/youcook2.py:runlocal")
  one = jax.devices()[:1]
  found = zero_shot.run(config, tmp_path / "job", tmp_path / "run", devices=one)
  for name in ("verb", "object"):
    for k in (1, 5):
      result = found[f"zero_shot/{name}@{k}"]
      assert 0 <= result.value <= 1
      assert result.n == found[f"zero_shot/{name}@{k}_prior"].n > 0


def test_another_vocabulary_is_refused_by_name(made, tmp_path):
  *_, at, vocab = made
  config = load("configs/mil_nce/youcook2.py:runlocal")
  words = tmp_path / "vocab.txt"
  words.write_text("red\nblue\n")
  other = config | dict(vocab=dict(name="words", file=str(words)))
  one = jax.devices()[:1]
  with pytest.raises(CheckpointError, match=r"vocabulary of .* has"):
    zero_shot.run(other, tmp_path / "job", at, devices=one)
  with pytest.raises(UserError, match="and no tasks"):
    zero_shot.run(config | dict(tasks=dict(a={})), tmp_path, at, devices=one)
  with pytest.raises(UserError, match="'eval'"):
    zero_shot.run(config | dict(eval={}), tmp_path, at, devices=one)
  assert restore.same_meaning(at, {}) is None  # nothing known here, nothing compared
  assert restore.same_meaning(tmp_path, {}) is None
  same = snapshot.identities(vocab.spec, None)
  restore.same_meaning(at, same)
  tree = Vocab(16, digest="ab")  # any size and digest
  assert snapshot.identities(None, None, {"tree": tree}) == {
    "tree": {"digest": "ab", "size": 16}
  }
