"""A shard that goes away in the middle of a run ends it, with its name."""

import itertools

import pytest

from data_pipelines import batches, index, read
from tests.reference import shards
from vlp_jax import errors


def test_a_shard_that_is_gone_is_an_error_and_no_endless_loop(tmp_path):
  with index.ShardWriter(tmp_path, "train", 2, columns=("gallery",)) as writer:
    for k in range(8):
      record, columns = shards.clip(k, frames=2)
      writer.write(k % 2, record, gallery=columns["gallery"])
  index.write_info(tmp_path, {"name": "clips", "splits": ["train"]})
  given = dict(task="narrated_clips", dir=str(tmp_path), split="train", rows=2)
  given |= dict(text="none", num_frames=2, size=16)
  made, table = batches.build(given), index.load(tmp_path, "train")
  next(made)
  table.paths[1].unlink()
  with pytest.raises(errors.UserError, match=r"train-00001-of-00002\S+: the shard"):
    list(itertools.islice(made, 20))
  with pytest.raises(errors.UserError, match="train-00001-of-00002"):
    list(read.scan(table, lambda r: {"r": r}))
