"""Apache Beam makes the same shards; without it the error says what to install."""

import functools
import hashlib
import json
import sys
import types

import pytest

from data_pipelines import index, records
from data_pipelines.prepare import __main__ as command
from data_pipelines.prepare import beam, shards
from vlp_jax import errors


def encode(row, *, least=0):
  """A record of the row's number; numbers below `least` are damaged."""
  if row["number"] < least:
    raise ValueError(f"number {row['number']} is below {least}")
  context = {"key": row["key"], "number": row["number"]}
  return records.encode(context), {"number": row["number"]}


def write(out, processes, *, num=20, least=0):
  rows = [{"key": f"k{n:03d}", "number": n} for n in range(num)]
  return shards.write(
    out,
    {"train": rows, "test": rows[:3]},
    functools.partial(encode, least=least),
    columns=("number",),
    settings={"dataset": "numbers"},
    info={"name": "numbers", "kind": "numbers", "licence": "none"},
    processes=processes,
    per_shard=4,
    quiet=True,
  )


def hashes(out):
  names = ("*.tfrecord", "*.npz", index.INFO, shards.BAD)
  found = sorted(p for name in names for p in out.glob(name))
  return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in found}


@pytest.fixture
def runner(monkeypatch):
  """DirectRunner; a stand-in where Beam is not installed, which pickles as it does."""
  try:
    import apache_beam  # noqa: F401
  except ImportError:
    monkeypatch.setattr(beam, "_module", lambda: (Standin, Options))
  return "DirectRunner"


class Options:
  """Of `apache_beam.options.pipeline_options`."""

  PipelineOptions = staticmethod(lambda given: types.SimpleNamespace(given=given))


class Standin:
  """As much of `apache_beam` as is used: transforms that run when the block ends."""

  class Pipeline:
    def __init__(self, runner, options):
      if runner != "BundleBasedDirectRunner":
        raise ValueError(f"Unexpected pipeline runner: {runner}")
      assert options.given == []
      self.steps = []

    def __enter__(self):
      return self

    def __exit__(self, kind, *_):
      if kind is None:
        values = self.steps[0]
        for step in self.steps[1:]:
          values = step(values)

    def __or__(self, step):
      self.steps.append(step)
      return self

  Create = staticmethod(list)

  @staticmethod
  def Reshuffle():
    return lambda values: values[::-1]

  @staticmethod
  def Map(fn):
    import pickle

    work = pickle.loads(pickle.dumps(fn))
    return lambda values: [work(pickle.loads(pickle.dumps(v))) for v in values]


def test_the_same_shards_as_without(runner, tmp_path):
  plain = write(tmp_path / "plain", 1, least=2)
  assert write(tmp_path / "beam", runner, least=2) == plain
  assert hashes(tmp_path / "beam") == hashes(tmp_path / "plain")
  assert plain["splits"]["train"]["bad_records"] == 2
  assert plain["splits"]["train"]["shards"] == 5


def test_what_is_there_is_kept_and_the_rest_is_made(runner, tmp_path):
  write(tmp_path / "plain", 1)
  write(tmp_path / "out", runner)
  gone = tmp_path / "out" / index.shard_name("train", 3, 5)
  index.index_path(gone).unlink()
  gone.unlink()
  kept = tmp_path / "out" / index.shard_name("train", 0, 5)
  before = kept.stat().st_mtime_ns
  write(tmp_path / "out", runner)
  assert kept.stat().st_mtime_ns == before
  assert hashes(tmp_path / "out") == hashes(tmp_path / "plain")


def test_above_the_budget_it_ends(runner, tmp_path):
  with pytest.raises(errors.DataBudgetError, match="of 203 examples are damaged") as e:
    write(tmp_path / "out", runner, num=200, least=150)
  assert e.value.exit_code == 3
  noted = (tmp_path / "out" / shards.BAD).read_text().splitlines()
  assert 100 < len(noted) < 150  # it stopped before all was tried
  assert not list((tmp_path / "out").glob("*.tmp-*"))
  assert json.loads(noted[0])["reason"].endswith("is below 150")


@pytest.mark.usefixtures("runner")
def test_an_unknown_runner_is_told(tmp_path):
  with pytest.raises(errors.UserError, match=r"--runner=FastRunner: .*FastRunner"):
    write(tmp_path / "out", "FastRunner")


def test_without_beam_the_error_says_what_to_do(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "apache_beam", None)
  with pytest.raises(errors.UserError, match=r"pip install -r requirements-beam\.txt"):
    write(tmp_path / "out", "DirectRunner")


def test_the_command_takes_a_runner(monkeypatch, tmp_path, capsys):
  seen = {}
  monkeypatch.setattr(
    beam, "run", lambda job, tasks, runner, stop: seen.update(r=runner)
  )
  source = tmp_path / "text"
  source.mkdir()
  (source / "a.txt").write_text("One sentence here. And another one.\n\nMore of it.\n")
  run = ["text", "--source", str(source), "--out", str(tmp_path / "out")]
  assert command.main([*run, "--runner=SparkRunner --x=1"]) != 0  # nothing was written
  assert seen == {"r": "SparkRunner --x=1"}
  capsys.readouterr()
  assert command.main([*run, "--processes", "1"]) == 0
