"""Batches ahead of the loop: one thread, a short queue, the position with each batch.

The thread runs `next` and the copy to the device while the step computes. It is ahead
of the loop, so the position to save is the one that came with the last batch the loop
took, never the iterator's own. Works for any iterator with `get_state` and `set_state`.
"""

import atexit
import queue
import threading
from collections.abc import Callable, Iterator

_POLL_S = 0.1  # how soon the thread notices that it is to stop


class _End:
  """The last thing in the queue: an error, or None for a finished iterator."""

  def __init__(self, error: BaseException | None):
    self.error = error


class Prefetch:
  """An iterator over `put(batch)`, `depth` batches ahead.

  Args:
    source: iterator of batches; `get_state()` after `next` is the position behind that
      batch. Iterators without the two methods work too, but cannot be saved.
    put: host batch to device batch, as
      `lambda b: {k: jax.make_array_from_process_local_data(s, x) ...}`.
    depth: batches that wait; each costs device memory.
  Errors of the source or of `put` are raised by `next`, after the good batches before
  them. `close` ends the thread; so does leaving a `with` block.
  """

  def __init__(self, source: Iterator, put: Callable | None = None, *, depth: int = 2):
    self._source, self._put, self._depth = source, put or (lambda x: x), depth
    self._state = self._read_state()
    self._thread, self._closed = None, False

  def _read_state(self):
    return self._source.get_state() if hasattr(self._source, "get_state") else None

  def _start(self):
    self._queue, self._stop = queue.Queue(self._depth), threading.Event()
    args = (self._queue, self._stop)
    self._thread = threading.Thread(target=self._run, args=args, daemon=True)
    self._thread.start()
    atexit.register(self.close)  # a thread at work while Python ends may hang it

  def _run(self, out, stop):
    def send(x):
      while not stop.is_set():
        try:
          return out.put(x, timeout=_POLL_S)
        except queue.Full:
          continue
      return None

    try:
      for batch in self._source:
        state = self._read_state()
        send((self._put(batch), state))
        del batch  # or a third batch stays alive while this one waits
        if stop.is_set():
          return
      send(_End(None))
    except BaseException as error:  # whatever it is, the loop must see it
      send(_End(error))

  def __iter__(self) -> "Prefetch":
    return self

  def __next__(self):
    if self._closed:
      raise RuntimeError("the prefetch is closed; set_state opens it again.")
    if self._thread is None:
      self._start()
    item = self._queue.get()
    if isinstance(item, _End):
      self._queue.put(item)  # asked again, it answers again
      raise StopIteration if item.error is None else item.error
    batch, self._state = item
    return batch

  def get_state(self):
    """The position behind the last batch that was taken."""
    return self._state

  def set_state(self, state) -> None:
    """Stops the thread and goes on at `state`."""
    self.close()
    self._source.set_state(state)
    self._state, self._closed = self._read_state(), False

  def close(self) -> None:
    """Ends the thread. Batches that wait are lost, so `next` is refused afterwards."""
    if self._thread is not None:
      atexit.unregister(self.close)
      self._stop.set()
      self._thread.join()
    self._thread, self._closed = None, True

  def __enter__(self) -> "Prefetch":
    return self

  def __exit__(self, *_) -> None:
    self.close()
