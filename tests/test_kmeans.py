"""Hierarchical k-means against loops, planted clusters, devices, restarts, bad data."""

import jax
import numpy as np
import pytest
from sklearn import cluster, metrics

from tests.reference import kmeans as reference
from vlp_jax import (
  cluster_tree,
  kmeans,
  kmeans_blocks,
  kmeans_seeds,
  kmeans_stream,
  sharding,
  whitening,
)
from vlp_jax.errors import CheckpointError, UserError

K, DEPTH, WIDTH, POINTS = 3, 2, 8, 600
GIVEN = dict(branching=K, depth=DEPTH, passes=3, batch=40, seed=3)


def mesh(count):
  return sharding.mesh(None, jax.devices()[:count])


def planted(seed=0, dtype=np.float32):
  """(points [600, 8] far from zero, which of 9 clusters in 3 groups)."""
  rng = np.random.default_rng(seed)
  coarse = 30 * rng.normal(size=(K, 1, WIDTH))
  centres = (coarse + 4 * rng.normal(size=(K, K, WIDTH))).reshape(-1, WIDTH)
  label = rng.integers(0, len(centres), POINTS)
  x = centres[label] + 0.05 * rng.normal(size=(POINTS, WIDTH)) + 100
  return x.astype(dtype), label


@pytest.fixture(scope="module")
def data():
  return planted()


@pytest.fixture(scope="module")
def fitted(data):
  return kmeans.fit(parts(data[0]), **GIVEN, mesh=mesh(1))


def parts(x):
  """Arrays of many lengths, none of which is that of a batch."""
  return np.split(x, [1, 1, 100, 433])


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("group", [1, 4])
def test_a_pass_is_that_of_the_loops(count, group):
  rng = np.random.default_rng(1)
  nodes, k, batch, n = 3, 2, 32, 90
  x = rng.normal(size=(n, 4)).astype(np.float32)
  node = rng.integers(0, nodes, n).astype(np.int32)
  parent = rng.normal(size=(nodes, 4)).astype(np.float32)
  child = rng.normal(size=(nodes, k, 4)).astype(np.float32)
  used = np.array([[1, 1], [1, 0], [1, 1]], bool)
  count0 = np.array([[5, 0], [0, 0], [1, 2]], np.float32)
  buffers = kmeans_stream.Buffers(mesh(count), x.dtype)
  blocks = kmeans_stream.Blocks(buffers, nodes, batch, 3, 4, group)
  with sharding.context(mesh(count)):
    chunk, place = blocks.put([x[:10], x[10:]], node)
    np.testing.assert_array_equal(np.asarray(chunk.x).reshape(-1, 4)[place], x)
    state = kmeans_blocks.start(child, used, count0, mesh(count))
    state = kmeans_blocks.train(
      state, parent, chunk, mesh=mesh(count), cosine=False, update=True
    )
    want, counts = reference.update(x, node, parent, child, used, count0, batch)
    np.testing.assert_allclose(state.child, want, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(state.count, counts)
    np.testing.assert_allclose(state.recent, counts - count0)


def test_planted_clusters_are_found(data, fitted):
  x, label = data
  assert kmeans.mutual_information(label, fitted.ids) > 0.99
  assert fitted.tree.leaves_used().all()
  assert fitted.inertia == pytest.approx(0.05**2 * WIDTH, rel=0.1)
  far = ((x - fitted.tree.centroid(fitted.ids)) ** 2).sum(1).mean()
  assert fitted.inertia == pytest.approx(far, rel=1e-3)


@pytest.mark.parametrize("count", [2, 8])
def test_devices_change_nothing(data, fitted, count):
  again = kmeans.fit(parts(data[0]), **GIVEN, mesh=mesh(count))
  np.testing.assert_array_equal(again.ids, fitted.ids)
  for a, b in zip(again.tree.centroids, fitted.tree.centroids, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_ids_are_those_of_the_loops_on_host_and_device(data, fitted):
  x, tree = data[0], fitted.tree
  want = [reference.descend(p, tree.centroids, tree.used) for p in x[:50]]
  np.testing.assert_array_equal(fitted.ids[:50], want)
  np.testing.assert_array_equal(tree.assign(x.reshape(30, 20, -1)).ravel(), fitted.ids)
  levels = jax.device_put(list(tree.levels()))
  near = jax.jit(cluster_tree.descend)(levels, x.reshape(30, 20, -1))
  np.testing.assert_array_equal(np.asarray(near).ravel(), fitted.ids)
  digits = tree.digits(np.arange(tree.size))
  assert digits.shape == (K**DEPTH, DEPTH)
  assert digits[5].tolist() == [1, 2]
  np.testing.assert_array_equal(tree.ids(digits), np.arange(tree.size))
  with pytest.raises(ValueError, match=r"0\.\.8 exist"):
    tree.digits([9])
  np.testing.assert_array_equal(tree.centroid(5), tree.centroids[1][1, 2])
  for bad in (-1, [3, 9]):
    with pytest.raises(ValueError, match=r"0\.\.8 exist"):
      tree.centroid(bad)


@pytest.mark.parametrize("width", [4, 256])
@pytest.mark.parametrize("offset", [1e3, 1e4])
def test_ids_are_the_same_however_far_from_zero(width, offset):
  """Squares of places would leave float32 no digit for what the clusters differ in."""
  x = np.random.default_rng(0).normal(size=(500, width)) + offset
  x = x.astype(np.float32)
  found = kmeans.fit([x], **GIVEN, mesh=mesh(1))
  np.testing.assert_array_equal(found.tree.assign(x), found.ids)
  levels = jax.device_put(list(found.tree.levels()))
  near = jax.jit(cluster_tree.descend)(levels, x)
  np.testing.assert_array_equal(near, found.ids)
  assert len(np.unique(found.ids)) > K


def test_how_it_is_cut_does_not_matter(data, fitted):
  whole = kmeans.fit([data[0]], **GIVEN, mesh=mesh(1))
  np.testing.assert_array_equal(whole.ids, fitted.ids)
  for one, other in zip(whole.tree.centroids, fitted.tree.centroids, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-6)  # sums over arrays of other sizes
  # Chunks of 64 rows: updates of several chunks, and other samples to start from.
  small = kmeans.fit([data[0]], **GIVEN, mesh=mesh(1), chunk_mb=1e-3)
  assert kmeans.mutual_information(small.ids, data[1]) > 0.99
  other = kmeans.fit([data[0]], **GIVEN | dict(seed=4), mesh=mesh(1))
  assert other.tree.digest != fitted.tree.digest


@pytest.mark.parametrize("stop", [5, 30, 60, 75, 100])
def test_a_restart_ends_with_the_same_tree(data, tmp_path, stop):
  calls = []

  def progress(done, total):
    calls.append((done, total))
    if len(calls) == stop:
      raise KeyboardInterrupt

  given = dict(mesh=mesh(1), save=tmp_path / "state.npz", identity="these")
  given |= dict(chunk_mb=1e-3, **GIVEN)
  whole = kmeans.fit([data[0]], **given | dict(save=None))
  with pytest.raises(KeyboardInterrupt):
    kmeans.fit([data[0]], **given, progress=progress)
  again = kmeans.fit([data[0]], **given, progress=progress)
  assert again.tree.digest == whole.tree.digest
  np.testing.assert_array_equal(again.ids, whole.ids)
  assert again.inertia == whole.inertia
  assert calls[-1] == (POINTS * (1 + DEPTH * 4), POINTS * (1 + DEPTH * 4))
  with pytest.raises(CheckpointError, match="other settings or features"):
    kmeans.fit([data[0]], **given | dict(identity="others"))
  path = given["save"]
  path.write_bytes(path.read_bytes()[:-40])
  with pytest.raises(CheckpointError, match="is damaged"):
    kmeans.fit([data[0]], **given)


def test_fewer_points_than_leaves():
  few = np.array([[0, 0], [1, 0], [0, 9], [0, 9.5], [8, 8]], np.float32)
  x = np.repeat(few, [3, 40, 1, 5, 2], axis=0)
  found = kmeans.fit([x], branching=4, depth=3, passes=3, mesh=mesh(1))
  assert found.inertia == pytest.approx(0, abs=1e-6)
  assert found.tree.leaves_used().sum() == 5
  assert (
    kmeans.mutual_information(np.repeat(range(5), [3, 40, 1, 5, 2]), found.ids) == 1
  )
  assert all(np.isfinite(c).all() for c in found.tree.centroids)
  anywhere = np.random.default_rng(0).normal(size=(200, 2)) * 20
  assert found.tree.leaves_used()[found.tree.assign(anywhere)].all()
  same = kmeans.fit([np.ones((7, 3), np.float16)], branching=2, depth=2, mesh=mesh(1))
  assert same.ids.tolist() == [0] * 7
  assert same.tree.centroid(0).tolist() == [1, 1, 1]


def test_children_of_few_rows_start_anew_in_the_largest():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 50, 4)).astype(np.float32)
  child = np.zeros((2, 3, 4), np.float32)
  child[:, 1], child[:, 2] = 100, -100
  used = np.array([[1, 1, 1], [1, 0, 1]], bool)
  recent = np.array([[500, 4, 5], [500, 0, 400]], np.float32)
  parent, have = np.zeros((2, 4), np.float32), np.array([50, 50])
  got, moved = kmeans_seeds.anew(
    child, used, recent, x, have, parent, cosine=False, rng=rng
  )
  assert moved.tolist() == [[False, True, False], [False, False, False]]
  assert (got[0, 1] == x[0]).all(-1).any()
  np.testing.assert_array_equal(got[0, [0, 2]], child[0, [0, 2]])
  alike = np.zeros_like(x)
  got, moved = kmeans_seeds.anew(
    child, used, recent, alike, have, parent, cosine=False, rng=rng
  )
  assert not moved.any()


@pytest.mark.parametrize("init", ["kmeans++", "random"])
def test_seeds_are_rows_of_the_node(init):
  rng = np.random.default_rng(0)
  x = rng.normal(size=(3, 30, 4)).astype(np.float32)
  have, parent = np.array([30, 2, 0]), rng.normal(size=(3, 4)).astype(np.float32)
  given = dict(k=5, init=init, cosine=False, rng=rng)
  child, used = kmeans_seeds.start(x, have, parent, **given)
  assert used.sum(1).tolist() == [5, 2, 0]
  for node in range(2):
    rows = (child[node] + parent[node])[used[node]]
    near = np.abs(rows[:, None] - x[node, : have[node]]).max(-1) < 1e-5
    assert near.sum(0).max() == 1
    assert near.any(1).all()


def test_flat_clusters_are_as_good_as_scikit_learns():
  x = np.random.default_rng(0).normal(size=(2000, 8)).astype(np.float16)
  found = kmeans.fit([x], branching=32, depth=1, passes=8, batch=200, mesh=mesh(1))
  peer = cluster.MiniBatchKMeans(
    32, batch_size=200, max_iter=8, n_init=1, max_no_improvement=None, random_state=0
  ).fit(x.astype(np.float32))
  assert found.inertia < 1.03 * peer.inertia_ / len(x)
  counts = np.bincount(found.ids, minlength=32)
  assert 16 < kmeans.perplexity(counts) <= 32
  assert kmeans.perplexity([5, 5, 0, 5]) == pytest.approx(3)


def test_cosine_looks_at_directions_only(data):
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(4, WIDTH))
  label = rng.integers(0, 4, 300)
  x = centres[label] + 0.02 * rng.normal(size=(300, WIDTH))
  x *= rng.uniform(0.1, 50, size=(300, 1))
  x[7] = 0
  found = kmeans.fit([x.astype(np.float32)], branching=4, depth=1, cosine=True)
  keep = np.arange(300) != 7
  assert kmeans.mutual_information(label[keep], found.ids[keep]) > 0.99
  np.testing.assert_allclose(np.linalg.norm(found.tree.leaves(), axis=1), 1, rtol=1e-5)
  np.testing.assert_array_equal(found.tree.assign(3 * x)[keep], found.ids[keep])


def test_bad_features_are_told(data):
  x = data[0]
  broken = x.copy()
  broken[433, 2] = np.nan
  cases = [
    ([], "nothing to cluster"),
    ([x[:0]], "nothing to cluster"),
    (iter([x]), "read only once"),
    ([x, x[:, :3]], "have width 3"),
    ([x, broken], r"row 1033 is not finite"),
    ([x.astype(int)], "int64"),
    ([x, x.astype(np.float64)], "cannot hold them"),
  ]
  for given, message in cases:
    with pytest.raises(UserError, match=message):
      kmeans.fit(given, **GIVEN, mesh=mesh(1))
  with pytest.raises(UserError, match="do not fit"):
    kmeans.fit([x], branching=1000, depth=4)
  with pytest.raises(UserError, match=r"branching=1 "):
    kmeans.fit([x], branching=1)
  with pytest.raises(UserError, match=r"seed=-1 "):
    kmeans.fit([x], seed=-1)


def test_trees_are_files_that_know_themselves(fitted, tmp_path):
  tree, path = fitted.tree, tmp_path / "tree.npz"
  digest = tree.save(path)
  again = kmeans.load(path, digest=digest)
  assert again.digest == tree.digest == digest
  assert again.size == 9
  with pytest.raises(CheckpointError, match="ids of one tree mean nothing"):
    kmeans.load(path, digest="0" * 64)
  with pytest.raises(UserError, match="width 3"):
    tree.assign(np.zeros((2, 3), np.float32))
  with pytest.raises(UserError, match="not finite"):
    tree.assign(np.full((2, WIDTH), np.nan))
  raw = bytearray(path.read_bytes())
  at = raw.find(tree.centroids[1].tobytes())
  raw[at + 10] ^= 1
  path.write_bytes(raw)
  with pytest.raises((CheckpointError, UserError), match=r"damaged|CRC"):
    kmeans.load(path)
  np.savez(path, centroids_0=np.array([object()]), allow_pickle=True)
  with pytest.raises(UserError, match="objects"):
    kmeans.load(path)
  np.savez(path, something=np.zeros(3))
  with pytest.raises(UserError, match="no tree"):
    kmeans.load(path)


def test_a_tree_knows_what_it_was_made_of(fitted, tmp_path):
  tree, path = fitted.tree, tmp_path / "tree.npz"
  origin = dict(GIVEN, width=WIDTH, cosine=False, features="abc")
  assert tree.save(path, origin=origin) == tree.digest == kmeans.load(path).digest
  say = lambda **more: cluster_tree.differ(path, origin | more)
  assert say() == []
  assert say(seed=4, features="of another order") == ["seed=3, not 4"]
  assert say(passes=9, width=3) == ["passes=3, not 9", f"width={WIDTH}, not 3"]
  assert say(features="others") == ["other features"]
  tree.save(path)  # as trees were before
  assert say(passes=9, features="others") == []
  assert say(depth=3) == ["depth=2, not 3"]
  arrays = dict(np.load(path)) | dict(origin=np.frombuffer(b"{what", np.uint8))
  np.savez(path, **arrays)
  with pytest.raises(CheckpointError, match="is damaged"):
    say()


def test_mutual_information_is_scikit_learns():
  rng = np.random.default_rng(0)
  a, b = rng.integers(0, 5, 200), rng.integers(0, 3, 200)
  want = metrics.normalized_mutual_info_score(a, b)
  assert kmeans.mutual_information(a, b) == pytest.approx(want)
  assert kmeans.mutual_information(a, (a + 1) % 5) == pytest.approx(1)
  assert kmeans.mutual_information(np.zeros(4), np.zeros(4)) == 1


def test_whitened_features_are_uncorrelated():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(500, 6)) @ rng.normal(size=(6, 6)) + 10
  data = parts(x.astype(np.float32))
  found = whitening.fit(data, width=4, eps=0, normalise=False)
  y = np.concatenate(list(whitening.Whitened(data, found)))
  np.testing.assert_allclose(y.T @ y / len(y), np.eye(4), atol=1e-3)
  unit = found._replace(normalise=True).apply(x)
  np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
  with pytest.raises(UserError, match="at most 6"):
    whitening.fit(data, width=7)
