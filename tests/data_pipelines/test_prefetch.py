"""The thread: order, position, errors, stopping."""

import threading
import time

import pytest

from data_pipelines import prefetch


class Numbers:
  """0, 1, 2, ...; fails at `bad`, ends at `end`."""

  def __init__(self, *, bad=None, end=None):
    self.at, self.bad, self.end, self.made = 0, bad, end, 0

  def __iter__(self):
    return self

  def __next__(self):
    if self.at == self.bad:
      raise OSError("disk")
    if self.at == self.end:
      raise StopIteration
    self.at, self.made = self.at + 1, self.made + 1
    return self.at - 1

  def get_state(self):
    return {"at": self.at}

  def set_state(self, state):
    self.at = state["at"]


def settle(source, at):
  for _ in range(200):
    if source.at >= at:
      return
    time.sleep(0.01)


def test_position_is_of_the_batch_taken():
  source = Numbers()
  with prefetch.Prefetch(source, lambda x: 10 * x) as ahead:
    assert ahead.get_state() == {"at": 0}
    assert [next(ahead) for _ in range(5)] == [0, 10, 20, 30, 40]
    settle(source, 8)
    assert source.at > 5  # the iterator itself is ahead
    assert ahead.get_state() == {"at": 5}
    saved = ahead.get_state()
    ahead.set_state({"at": 2})
    assert next(ahead) == 20
    ahead.set_state(saved)
    assert next(ahead) == 50


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_depth_bounds_what_is_made(depth):
  source = Numbers()
  with prefetch.Prefetch(source, depth=depth) as ahead:
    next(ahead)
    settle(source, depth + 2)
    time.sleep(0.05)
    assert source.made <= depth + 2  # taken, waiting, in the thread's hand


def test_errors_come_after_the_good_batches_and_stay():
  with prefetch.Prefetch(Numbers(bad=3)) as ahead:
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
      with pytest.raises(OSError, match="disk"):
        next(ahead)


def test_errors_of_put_are_raised():
  def put(x):
    raise ValueError("no room on the device")

  with (
    prefetch.Prefetch(Numbers(), put) as ahead,
    pytest.raises(ValueError, match="no room"),
  ):
    next(ahead)


def test_a_finite_source_ends():
  assert list(prefetch.Prefetch(iter(range(5)))) == list(range(5))


def test_close_ends_the_thread_and_refuses():
  before = threading.active_count()
  ahead = prefetch.Prefetch(Numbers())
  next(ahead)
  assert threading.active_count() == before + 1
  ahead.close()
  ahead.close()
  assert threading.active_count() == before
  with pytest.raises(RuntimeError, match="closed"):
    next(ahead)
  ahead.set_state({"at": 1})
  assert next(ahead) == 1
  ahead.close()
