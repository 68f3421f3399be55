"""Packed rows: the order, the layout, resume, hosts, damage, and who refuses them."""

import json

import numpy as np
import pytest

from data_pipelines import batches, index, packing, plan
from tests.data_pipelines import test_plan as lengths_of
from tests.reference import packing as reference
from tests.reference import shards
from vlp_jax import batch as contract
from vlp_jax import errors

TEXTS, PACK = 130, 64
WIDE = {"text": 40, "regions": 48}


def sizes_of(n, seed=0):
  """[n, 2]: words and regions of a corpus like COCO."""
  rng = np.random.default_rng(seed)
  words = np.clip(rng.normal(13, 3, n), 5, 60).astype(int) + 2
  return np.stack([words, lengths_of.captions_and_regions(n, seed) - words], axis=1)


def planned(sizes, length, rows, **given):
  room = packing.widths(sizes, length)
  count = packing.segments(sizes, length)
  return plan.Packed(sizes, room, length, rows, count, **given)


@pytest.mark.parametrize("length", [256, 512])
def test_waste_is_below_three_percent(length):
  sizes = np.maximum(sizes_of(20_000), 1)
  p = planned(sizes, length, 32)
  found = [ids for w in range(p.windows) for _, ids in p.window(w)[1]]
  assert packing.waste(sizes, found, length) < 0.03
  most = max((ids != plan.NONE).sum(1).max() for ids in found)
  assert most < p.segments, "the bound on segments never costs places"


@pytest.mark.parametrize("per_window", [2, 1000])
def test_each_id_once_an_epoch_within_all_widths(per_window):
  sizes = np.maximum(sizes_of(900), 1)
  p = planned(sizes, 256, 16, seed=3, per_window=per_window)
  assert (p.windows > 1) == (per_window == 2)
  orders = []
  for epoch in (0, 1):
    seen = []
    for w in range(epoch * p.windows, (epoch + 1) * p.windows):
      of, found = p.window(w)
      assert of == epoch
      for rung, ids in found:
        assert rung == 0
        assert ids.shape == (16, p.segments)
        real = ids != plan.NONE
        assert (real[:, :-1] | ~real[:, 1:]).all()  # no gap between segments
        used = np.where(real[..., None], sizes[ids], 0).sum(1)
        assert (used <= p.room).all()
        assert (used.sum(1) <= 256).all()
        seen += ids[real].tolist()
    assert sorted(seen) == list(range(900))
    orders.append(seen)
  assert orders[0] != orders[1]
  again = planned(sizes, 256, 16, seed=3, per_window=per_window).window(0)[1]
  for (_, a), (_, b) in zip(p.window(0)[1], again, strict=True):
    np.testing.assert_array_equal(a, b)


def test_packed_order_has_golden_values():
  """Saved positions hold only while the order stays; a change needs a new VERSION."""
  sizes = np.arange(1, 21)[:, None] * [1, 2] % 7 + 1
  found = plan.Packed(sizes, (16, 16), 24, 2, 4, seed=5).window(0)[1]
  assert np.concatenate([ids for _, ids in found]).tolist() == GOLDEN


GOLDEN = [
  [3, 17, 0, 7],
  [-1, -1, -1, -1],
  [12, 2, -1, -1],
  [4, 18, 13, 6],
  [11, 1, 14, -1],
  [8, 15, 10, -1],
  [19, 16, -1, -1],
  [5, 9, -1, -1],
]


def test_spares_fit_the_places_of_the_planned_one():
  sizes = np.maximum(sizes_of(2000), 1)
  p = planned(sizes, 256, 8, seed=1)
  for k, (_, ids) in enumerate(p.window(0)[1][:6]):
    table = p.candidates(0, k, 0, ids)
    np.testing.assert_array_equal(table, p.candidates(0, k, 0, ids))
    assert table.shape == (*ids.shape, 4)
    np.testing.assert_array_equal(table[..., 0], ids)
    assert (table[ids == plan.NONE] == plan.NONE).all()
    spares = table[..., 1:]
    some = spares != plan.NONE
    fits = (sizes[spares] <= sizes[ids][:, :, None]).all(-1)
    assert fits[some].all()
    assert len(np.unique(spares[some])) == some.sum()
    assert not np.isin(spares[some], ids).any()
    assert some[ids != plan.NONE].mean() > 0.7


def test_too_short_rows_and_bad_keywords_are_user_errors(tmp_path):
  sizes = np.array([[3, 40], [2, 2]])
  with pytest.raises(errors.UserError, match=r"input\.pack=40 is shorter .* of 43"):
    planned(sizes, 40, 2)
  with pytest.raises(errors.UserError, match="empty"):
    plan.Packed(sizes[:0], (8, 8), 16, 1, 1)
  at = shards.clips(tmp_path, 4)
  clips = {"task": "narrated_clips", "dir": at, "split": "train", "size": 16}
  with pytest.raises(errors.UserError, match="'narrated_clips' refuses packing"):
    batches.build({**clips, "rows": 2, "text": "none", "pack": 64})


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  at = shards.statements(tmp_path_factory.mktemp("packed"), TEXTS)
  return {"task": "text_regions", "dir": str(at), "split": "train"}


@pytest.fixture(scope="module")
def packed(texts):
  given = {**texts, "rows": 8, "pack": PACK, "fields": ["regions_probs"]}
  return batches.build(given, vocab=shards.pieces(), seed=3)


@pytest.fixture(scope="module")
def singles(texts):
  """example -> its unpadded arrays, as evaluation gives them."""
  given = {**texts, "rows": 26, "fields": ["regions_probs"]}
  out = {}
  for batch in batches.evaluation(given, vocab=shards.pieces()):
    for k, example in enumerate(batch["example_id"]):
      one = {}
      for key, x in batch.items():
        stream = key.split("_")[0]
        if key.endswith("_mask") or key == "fuse_index":
          continue
        one[key] = x[k][batch[f"{stream}_mask"][k]] if stream in WIDE else x[k]
      out[int(example)] = one
  return out


def equal(a, b):
  assert a.keys() == b.keys()
  for key in a:
    assert a[key].dtype == b[key].dtype, key
    np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def test_rows_hold_what_single_examples_hold(packed, singles):
  seen = []
  while len(seen) < TEXTS:
    batch = next(packed)
    contract.check(batch)
    mask = batch["example_mask"]
    table = np.where(mask, batch["example_id"], -1)
    seen += table[mask].tolist()
    widths = {s: batch[f"{s}_mask"].shape[1] for s in WIDE}
    assert widths == packed._source.widths
    assert batch["fuse_index"].shape == (8, PACK)
    equal(batch, reference.pack(singles, table, length=PACK, widths=widths, pad_id=0))
    rows, tokens = contract.useful(batch)
    assert rows == mask.sum()
    assert tokens == batch["text_mask"].sum() + batch["regions_mask"].sum()
  assert sorted(seen) == list(range(TEXTS))


def test_resume_is_exact_and_hosts_agree(packed):
  packed.set_state({**packed.get_state(), "window": 0, "batch": 0})
  shards.take(packed, 3)
  state = json.loads(json.dumps(packed.get_state()))
  assert len(json.dumps(state)) < 1000
  want = shards.take(packed, 10)  # over the end of the epoch
  assert packed.get_state()["window"] > 0
  packed.set_state(state)
  for a, b in zip(want, shards.take(packed, 10), strict=True):
    equal(a, b)
  for num_hosts in (2, 4):
    hosts = [
      batches.Batches(packed._source, seed=3, host=h, num_hosts=num_hosts)
      for h in range(num_hosts)
    ]
    for host in hosts:
      host.set_state(state)
    for a, *parts in zip(want, *(shards.take(h, 10) for h in hosts), strict=True):
      equal(a, {k: np.concatenate([p[k] for p in parts]) for k in a})
  packed.set_state(state)


def test_another_length_or_bound_is_another_order(texts, packed):
  state = packed.get_state()
  given = {**texts, "rows": 8, "pack": PACK, "max_segments": 3}
  other = batches.build(given, vocab=shards.pieces(), seed=3)
  with pytest.raises(errors.CheckpointError, match="plan"):
    other.set_state(state)
  batch = next(other)
  assert batch["example_id"].shape == (8, 3)
  tokens = batches.build(
    {**texts, "tokens": 16 * PACK + 9, "pack": PACK}, vocab=shards.pieces()
  )
  assert tokens.rungs == ((PACK, 16),)


def test_a_damaged_example_is_replaced_or_leaves_its_places_empty(tmp_path):
  at = shards.statements(tmp_path, 60, num_words=4)
  table = index.load(at, "train")
  for record in (3, 40):
    shards.flip(table, record, at=60)
  given = {
    "task": "text_regions",
    "dir": str(at),
    "split": "train",
    "rows": 4,
    "pack": 32,
  }
  made = batches.build(given, vocab=shards.pieces())
  used = []
  for batch in shards.take(made, 8):  # two epochs
    mask = batch["example_mask"]
    contract.check(batch)
    used += batch["example_id"][mask].tolist()
    assert batch["text_mask"].sum() == 6 * mask.sum()  # all have four words
    for stream in ("text", "regions"):
      np.testing.assert_array_equal(
        np.isin(np.arange(1, mask.shape[1] + 1), batch[f"{stream}_segments"][0]),
        mask[0],
      )
  assert set(made.bad) == {3, 40}
  assert "corrupted" in made.bad[3]["reason"]
  assert not set(used) & {3, 40}
