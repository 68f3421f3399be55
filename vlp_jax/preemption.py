"""SIGTERM: the machine is going away, save and leave with exit code 75."""

import signal
import threading

import jax
from jax.experimental import multihost_utils

from vlp_jax.errors import Preempted


class Watch:
  """Whether SIGTERM asked us to stop; in multi-process runs all stop at one step."""

  def __init__(self):
    self.asked = threading.Event()

  def __enter__(self):
    self.main = threading.current_thread() is threading.main_thread()
    if self.main and jax.process_count() == 1:
      self.before = signal.signal(signal.SIGTERM, lambda *_: self.asked.set())
    return self

  def __exit__(self, *_):
    if self.main and jax.process_count() == 1:
      signal.signal(signal.SIGTERM, self.before)

  def during_evaluation(self) -> None:
    """Leaves at once: an evaluation may take longer than the notice that we have.

    The run saves what it has and evaluates when it is started again. Several processes
    wait for the end of the evaluation, where all of them stop.
    """
    if self.asked.is_set():
      raise Preempted("stopped while evaluating; start the same command to go on.")

  def __call__(self, step: int) -> bool:
    if jax.process_count() > 1:
      return multihost_utils.reached_preemption_sync_point(step)
    return self.asked.is_set()
