"""SIGTERM: the machine is going away, save and leave with exit code 75."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Watch:
  """Whether SIGTERM asked us to stop; in multi-process runs all stop at one step."""

  def __enter__(self):
    self.asked = threading.Event()
    self.main = threading.current_thread() is threading.main_thread()
    if self.main and jax.process_count() == 1:
      self.before = signal.signal(signal.SIGTERM, lambda *_: self.asked.set())
    return self

  def __exit__(self, *_):
    if self.main and jax.process_count() == 1:
      signal.signal(signal.SIGTERM, self.before)

  def __call__(self, step: int) -> bool:
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.asked.is_set()
