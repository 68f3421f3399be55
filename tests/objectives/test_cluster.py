"""SDC, MDC, CDC, XDC: losses against numpy, and rounds that end where they should."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlp_jax import kmeans, optim, sharding, train
from vlp_jax import state as state_lib
from vlp_jax.errors import UserError
from vlp_jax.models import xdc
from vlp_jax.objectives import cluster

K, N, ROWS = 3, 12, 6


def hand_made(seed=0):
  """(apply, variables, batch): logits that are there already, labels at random."""
  rng = np.random.default_rng(seed)
  names = [f"{t}_by_{s}" for t in ("video", "audio") for s in cluster.LABELS]
  out = {f"{n}_logits": jnp.asarray(rng.normal(size=(ROWS, K))) for n in names}
  table = {}
  for name in cluster.LABELS:
    table[name] = jnp.asarray(rng.integers(0, K, N), jnp.int32)
    table[f"{name}_weight"] = jnp.asarray(rng.uniform(0.5, 2, K))
  table["audio"] = table["audio"].at[4].set(-1)
  batch = {
    "example_id": jnp.asarray([4, 1, 9, 0, 7, 3]),
    "example_mask": jnp.asarray([True] * 5 + [False]),
    "video_mask": jnp.ones((ROWS, 2), bool).at[2].set(False),
    "audio_mask": jnp.ones((ROWS, 5), bool),
  }
  apply = lambda variables, batch, *, rng, train: (out, {"kept": 1})
  return apply, {"clusters": table}, batch, out


def slow(out, variables, batch, name, balance):
  """(sum, rows) of one head by the formula, row by row."""
  tower, of = name.split("_by_")
  table, total, rows = variables["clusters"], 0.0, 0
  for i in range(ROWS):
    label = int(table[of][batch["example_id"][i]])
    real = bool(batch[f"{tower}_mask"][i].any() & batch["example_mask"][i])
    if label < 0 or not real:
      continue
    x = np.asarray(out[f"{name}_logits"][i], np.float64)
    loss = np.log(np.exp(x).sum()) - x[label]
    total += loss * (float(table[f"{of}_weight"][label]) if balance else 1.0)
    rows += 1
  return total, rows


@pytest.mark.parametrize("balance", [True, False])
@pytest.mark.parametrize(
  ("system", "heads"),
  [
    ("sdc", ["video_by_video", "audio_by_audio"]),
    ("cdc", ["video_by_joint", "audio_by_joint"]),
    ("xdc", ["video_by_audio", "audio_by_video"]),
    (
      "mdc",
      ["video_by_video", "audio_by_audio", "video_by_audio", "audio_by_video"],
    ),
  ],
)
def test_losses_are_the_formula(system, heads, balance):
  apply, variables, batch, out = hand_made()
  key = jax.random.key(0)
  terms, aux, mutable = getattr(cluster, system)(
    apply, variables, batch, key, balance=balance
  )
  assert mutable == {"kept": 1}
  assert sorted(terms) == sorted(heads)
  for name in heads:
    total, rows = slow(out, variables, batch, name, balance)
    np.testing.assert_allclose(terms[name].total, total, rtol=1e-5)
    assert terms[name].weight == rows
    assert aux[f"{name}/accuracy"].weight == rows


def test_mdc_without_its_cross_heads_is_sdc_and_names_of_clusters_do_not_matter():
  apply, variables, batch, out = hand_made(1)
  loss = lambda found: sum(t.coef * t.total / t.weight for t in found[0].values())
  key = jax.random.key(0)
  mdc = loss(cluster.mdc(apply, variables, batch, key, cross=0.0))
  sdc = loss(cluster.sdc(apply, variables, batch, key))
  np.testing.assert_allclose(mdc, sdc, rtol=1e-6)
  one = cluster.sdc(apply, variables, batch, key, towers=("audio",))
  assert list(one[0]) == ["audio_by_audio"]

  order = np.array([2, 0, 1])  # cluster k is called order[k] now
  back = np.argsort(order)
  table = dict(variables["clusters"])
  for name in cluster.LABELS:
    table[name] = jnp.where(table[name] < 0, -1, jnp.asarray(order)[table[name]])
    table[f"{name}_weight"] = table[f"{name}_weight"][back]
  renamed = {k: x[:, back] for k, x in out.items()}
  again = cluster.sdc(lambda *_, **__: (renamed, {}), {"clusters": table}, batch, key)
  np.testing.assert_allclose(loss(again), sdc, rtol=1e-6)


MODEL = xdc.Model(
  clusters=K,
  heads=("audio_by_audio",),
  video="",
  audio_args=dict(widths=(8,), stem_width=4, first_width=4),
)


@pytest.fixture(scope="module")
def state():
  round_ = dict(num_examples=N, clusters=K, labels=("audio",))
  make, *_ = state_lib.init(
    MODEL,
    lambda p: optim.build(p, name="adam", lr=1e-2, total_steps=9, ema=0.5),
    sharding.mesh(devices=jax.devices()[:1]),
    extra=lambda v: cluster.xdc_round.init(v, **round_),
  )
  ones = lambda tree: jax.tree.map(jnp.ones_like, tree)
  state = make()
  return state.replace(opt_state=ones(state.opt_state))


def planted(rng, n=N, width=5):
  """Features of three kinds far from each other, (x [n, width], kind [n])."""
  kind = np.arange(n) % K
  return 9.0 * np.eye(width)[kind] + 0.1 * rng.normal(size=(n, width)), kind


def test_a_round_finds_what_is_planted_and_starts_heads_anew(state):
  x, kind = planted(np.random.default_rng(0))
  seen = np.arange(N) != 5  # one example was not in the round
  features = {"example_id": np.flatnonzero(seen), "audio_features": x[seen]}
  given = dict(num_examples=N, clusters=K, labels=("audio",))
  run = lambda: cluster.xdc_round(state, features, jax.random.key(3), **given)
  new, again = run(), run()
  found = np.asarray(new.mutable["clusters"]["audio"])
  assert found[5] == -1
  assert kmeans.mutual_information(found[seen], kind[seen]) > 0.99
  for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(again), strict=True):
    np.testing.assert_array_equal(a, b)
  # All clusters weigh the same in a sum over examples, whose mean weight is 1.
  weight = np.asarray(new.mutable["clusters"]["audio_weight"])[found[seen]]
  np.testing.assert_allclose(weight.mean(), 1, rtol=1e-6)
  sums = np.bincount(found[seen], weight)
  np.testing.assert_allclose(sums, sums[0], rtol=1e-6)

  head = "cluster_heads_audio_by_audio"
  old, fresh = state.params[head], new.params[head]
  assert not np.allclose(old["kernel"], fresh["kernel"])
  assert 0 < np.abs(fresh["kernel"]).max() < 0.1
  assert not np.asarray(fresh["bias"]).any()
  for path, x in state_paths(new.opt_state):
    if head not in path:
      assert (np.asarray(x) == 1).all(), path
    elif "ema/" in path:
      np.testing.assert_array_equal(x, fresh[path.rsplit("/", 1)[1]])
    else:
      assert not np.asarray(x).any(), path
  for name in set(state.params) - {head}:
    for a, b in zip(
      *map(jax.tree.leaves, (state.params[name], new.params[name])), strict=True
    ):
      np.testing.assert_array_equal(a, b)


def state_paths(tree):
  found = jax.tree_util.tree_flatten_with_path(tree)[0]
  return [(jax.tree_util.keystr(p, simple=True, separator="/"), x) for p, x in found]


def test_joint_windows_whitening_and_standardising_within_groups(state):
  rng = np.random.default_rng(1)
  x, kind = planted(rng, 24)
  speaker = np.arange(24) // 12
  shifted = x + 40.0 * speaker[:, None]  # who speaks is what is seen first
  given = dict(num_examples=24, clusters=K, labels=("audio",), passes=30)
  extra = cluster.xdc_round.init({}, **given)
  start = state.replace(mutable={**state.mutable, **extra})
  label = lambda features, **more: np.asarray(
    cluster.xdc_round(start, features, jax.random.key(0), **given | more).mutable[
      "clusters"
    ]["audio"]
  )
  ids = np.arange(24)
  features = dict(example_id=ids, audio_features=shifted, label_speaker=speaker)
  agree = lambda found: kmeans.mutual_information(found, kind)
  assert agree(label(features)) < 0.7
  assert agree(label(features, within="label_speaker")) > 0.99
  assert agree(label(features, within="label_speaker", whiten=4)) > 0.99
  # Two windows of each example, noise that cancels: one label for both.
  noise = 30.0 * rng.normal(size=x.shape)
  twice = np.concatenate([x + noise, x - noise])
  both = dict(example_id=np.concatenate([ids, ids]), audio_features=twice)
  assert agree(label(both)) > 0.99
  joint = cluster._features(
    {"video_features": 100.0 * x[:, :2] + 1, "audio_features": x}, "joint"
  )
  np.testing.assert_allclose(np.linalg.norm(joint, axis=1), np.sqrt(2), rtol=1e-6)


def test_mistakes_are_told(state):
  x = np.zeros((N, 2))
  features = {"example_id": np.arange(N), "audio_features": x}
  run = lambda f=features, **given: cluster.xdc_round(
    state, f, jax.random.key(0), **dict(clusters=K, labels=("audio",)) | given
  )
  with pytest.raises(UserError, match="num_examples=6, but the data have an example"):
    run(num_examples=6)
  with pytest.raises(UserError, match="12 examples cannot make 20 clusters"):
    run(num_examples=N, clusters=20)
  with pytest.raises(UserError, match="no labels 'sound'"):
    run(num_examples=N, labels=("sound",))


def sounds(rng):
  hertz = 200.0 * 2.0 ** rng.integers(0, 3, ROWS)
  wave = np.sin(2 * np.pi * hertz[:, None] * np.arange(1600) / 16_000)
  return {
    "audio_samples": (8_000 * wave).astype(np.int16),
    "audio_mask": np.ones((ROWS, 1600), bool),
  }


def test_training_in_rounds_goes_on_after_a_stop_as_if_there_was_none(tmp_path):
  rng = np.random.default_rng(0)
  data = [
    sounds(rng) | {"example_id": np.arange(i, i + ROWS, dtype=np.int32)}
    for i in (0, ROWS)
  ]
  model = dict(name="xdc", variant="mu", video="", heads=("audio_by_audio",))
  config = dict(
    model=model | dict(clusters=K),
    tasks=dict(t=dict(objective="cluster:sdc", towers=("audio",))),
    rounds=dict(
      r=dict(
        fn="cluster:xdc_round",
        every=2,
        input=data,
        outputs=("audio_features", "example_id"),
        num_examples=N,
        clusters=K,
        labels=("audio",),
      )
    ),
    optim=dict(name="adam", lr=1e-3, schedule="constant"),
    checkpoint=dict(every=2),
    log_every=1,
    tensorboard=False,
  )
  devices = jax.devices()[:1]
  go = lambda steps, at: train.run(
    config | dict(total_steps=steps), at, data=data, devices=devices
  )
  whole = go(4, tmp_path / "a")
  go(2, tmp_path / "b")
  pieces = go(4, tmp_path / "b")
  labels = np.asarray(whole.state.mutable["clusters"]["audio"])
  assert (labels >= 0).all()
  for a, b in zip(*map(jax.tree.leaves, (whole.state, pieces.state)), strict=True):
    np.testing.assert_array_equal(a, b)
  lines = [(tmp_path / x / "metrics.jsonl").read_text() for x in "ab"]
  assert lines[0] == lines[1]
