"""Which pictures of an H.264 stream must be decoded to show a grid of times.

A picture to which no other refers (`nal_ref_idc` 0) may be left out, and no other
changes; often half of the pictures of a film are of that kind. So of these only the
ones that are shown at a time of the grid are decoded, and nothing after the last.

The frame shown at a time is the last that begins by then, so a packet is judged when
the one displayed after it is known. Packets come in order of decoding; at most 16
precede a picture and are displayed after it (H.264, A.3.1), so that far is read ahead.
"""

import collections
import heapq
from collections.abc import Callable, Iterable, Iterator

import av

REORDER = 16
# Containers in which every packet has its time.
FORMATS = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")


class Lost(Exception):
  """The decoder did not give a picture that was asked for: decode everything."""


def applies(container, v) -> bool:
  """Whether pictures of the stream may be left out."""
  return v.codec_context.name == "h264" and container.format.name in FORMATS


class Needed:
  """The packets of a stream up to the last one needed, each with whether it is shown.

  Args:
    packets: of one stream, from a keyframe on, in order of decoding; the last is empty.
    grid: the times wanted, in order.
    since: from when on the picture of a `pts` is shown.

  Attributes:
    shown: pts of the pictures that must come, in order of display.
    whole: whether the stream ended before the grid did.
  """

  def __init__(
    self,
    packets: Iterable[av.Packet],
    grid: Iterator[float],
    since: Callable[[int], float],
  ):
    self._packets, self._grid, self._since = packets, grid, since
    self.shown, self.whole = collections.deque(), False

  def __iter__(self) -> Iterator[tuple[av.Packet, bool]]:
    """(packet, whether to decode it even if no other refers to it).

    Raises: Lost for a packet without time.
    """
    waiting, ahead, keep = collections.deque(), [], set()  # of numbers of packets
    t, passed = next(self._grid, None), None
    judged = set()
    for k, packet in enumerate(self._packets):
      if packet.pts is None:
        if packet.size:
          raise Lost
        self.whole = True  # the flush; what is left is decoded, to see damage
        yield from ((p, True) for _, p in waiting)
        return
      waiting.append((k, packet))
      late = passed is not None and packet.pts <= passed
      if late or packet.is_discard or packet.is_corrupt:
        keep.add(k)
      if late or packet.is_discard:  # it bounds no other
        judged.add(k)
      else:
        heapq.heappush(ahead, (packet.pts, k))
      while t is not None and len(ahead) > REORDER + 1:
        passed, one = heapq.heappop(ahead)
        until = self._since(ahead[0][0])
        if t < until:
          keep.add(one)
          self.shown.append(passed)
        while t is not None and t < until:
          t = next(self._grid, None)
        judged.add(one)
      if t is None:
        break
      while waiting and waiting[0][0] in judged:
        number, first = waiting.popleft()
        judged.remove(number)
        yield first, number in keep
        keep.discard(number)
    last = max((number for number, _ in waiting if number in keep), default=-1)
    for number, packet in waiting:
      if number <= last:
        yield packet, number in keep


def decode(needed: Needed, v) -> Iterator[av.VideoFrame]:
  """The frames of the packets needed, in order of display, and some others.

  Raises: Lost if one that is shown is missing.
  """
  context, full = v.codec_context, True
  for packet, keep in needed:
    if keep != full:
      context.skip_frame, full = "DEFAULT" if keep else "NONREF", keep
    yield from _checked(packet.decode(), needed.shown)
  context.skip_frame = "DEFAULT"
  flush = av.Packet()
  flush.time_base = v.time_base
  yield from _checked(context.decode(flush), needed.shown)
  if needed.shown:
    raise Lost


def _checked(frames, shown) -> Iterator[av.VideoFrame]:
  for frame in frames:
    if frame.pts is None:
      raise Lost
    if shown and frame.pts >= shown[0]:
      if frame.pts > shown[0]:
        raise Lost
      shown.popleft()
    yield frame
