"""Several examples in one row, each seeing only itself: numpy only.

A packed batch has rows of one static length. Its keys, for streams such as text and
regions:

  <stream>_*         [B, W_s, ...] the tokens of the row's examples, one after another
  <stream>_segments  [B, W_s] int32, 1, 2, ... for the first, second, ... example; 0 is
                     padding
  text_positions     [B, W] int32, places of words, from 0 again in each example
  segment_starts     [B, S] int32, where the text of each example begins
  fuse_index         [B, M], the real tokens of all streams, compacted
  example_id, ...    [B, S], what is one number an example, [B, S, A] where it is
                     several; example_mask is False where a row has fewer examples
"""

from collections.abc import Mapping, Sequence

import numpy as np

_SLACK = 1.5  # places of a stream over its share of the tokens


def fuse_index(mask: np.ndarray, length: int) -> np.ndarray:
  """[B, M] int32: the real places of mask [B, N] first, then padded ones, in order.

  M = length <= N; no row may have more than M real places.
  """
  return np.argsort(~mask, axis=1, kind="stable")[:, :length].astype(np.int32)


def widths(sizes: np.ndarray, length: int) -> tuple[int, ...]:
  """Places for each stream in a packed row: half as many again as its share of it.

  Multiples of 8, at least the largest example, at most the row.
  Args:
    sizes: [N, k] int, tokens of each example in each stream.
    length: of the row, over all streams.
  """
  share = sizes.sum(0) / max(sizes.sum(), 1)
  want = np.maximum(np.ceil(share * length * _SLACK), sizes.max(0))
  want = np.minimum(-(-want // 8) * 8, length).astype(int)
  want[-1] += max(0, length - want.sum())  # together they fill the row
  return tuple(int(w) for w in want)


def segments(sizes: np.ndarray, length: int) -> int:
  """How many examples a row holds at most: twice what it holds on average."""
  mean = sizes.sum() / len(sizes)
  return int(min(2 * np.ceil(length / mean), max(1, length // sizes.sum(1).min())))


class _Layout:
  """Where the tokens of one stream go.

  Args:
    mask: [n, W] bool, the tokens of each example; row: [n] ascending, its row.
  """

  def __init__(self, mask, row):
    self.mask, self.row, self.counts = mask, row, mask.sum(1)
    before = np.cumsum(self.counts) - self.counts  # tokens of all examples before
    first = before[np.searchsorted(row, row)]  # and before the row
    self.start = before - first  # [n], place of the example in its row
    place = np.arange(self.counts.sum()) - np.repeat(first, self.counts)
    self.at = np.repeat(row, self.counts), place  # of each token
    self.leading = (mask == (np.arange(mask.shape[1]) < self.counts[:, None])).all()

  def lay(self, x, rows: int, width: int, fill=0) -> np.ndarray:
    """[n, W, ...] -> [rows, width, ...]."""
    out = np.full((rows, width, *x.shape[2:]), fill, x.dtype)
    if x.ndim == 2 or not self.leading:
      out[self.at] = x[self.mask]
      return out
    for one, row, start, size in zip(x, self.row, self.start, self.counts, strict=True):
      out[row, start : start + size] = one[:size]  # wide: a copy for each example
    return out


def pack(
  examples: Mapping[str, np.ndarray],
  slots: np.ndarray,
  *,
  rows: int,
  segments: int,
  length: int,
  streams: Mapping[str, int],
  fill: Mapping[str, int],
) -> dict[str, np.ndarray]:
  """Examples, one a row, to a packed batch.

  Args:
    examples: keys of the contract, [n, ...]: <stream>_mask and what goes with it, and
      what an example has once, numbers [n] or scores [n, A].
    slots: [n] int, ascending: row * segments + place of each example in its row.
    rows, segments, length: B, S and M of the batch.
    streams: name -> W_s, in the order of `fuse_index`.
    fill: key -> value at padding, 0 without.
  Returns: the keys of the header. An example without a real token in any stream gets
    example_mask False.
  """
  row, place = np.divmod(slots, segments)
  out, some = {}, np.zeros(len(slots), bool)
  for stream, width in streams.items():
    mask = examples[f"{stream}_mask"]
    to = _Layout(mask, row)
    some |= to.counts > 0
    for key, x in examples.items():
      if key.startswith(f"{stream}_"):
        out[key] = to.lay(x, rows, width, fill.get(key, 0))
    numbers = np.broadcast_to(np.int32(place + 1)[:, None], mask.shape)
    out[f"{stream}_segments"] = to.lay(numbers, rows, width)
    if stream == "text":
      again = np.broadcast_to(np.arange(mask.shape[1], dtype=np.int32), mask.shape)
      out["text_positions"] = to.lay(again, rows, width)
      out["segment_starts"] = np.zeros((rows, segments), np.int32)
      out["segment_starts"][row, place] = np.where(to.counts > 0, to.start, 0)
  where = np.concatenate([out[f"{stream}_mask"] for stream in streams], axis=1)
  out["fuse_index"] = fuse_index(where, length)
  for key, x in examples.items():
    if key not in out:
      out[key] = np.zeros((rows, segments, *x.shape[1:]), x.dtype)
      out[key][row, place] = x & some if key == "example_mask" else x
  return out


def waste(sizes: np.ndarray, batches: Sequence[np.ndarray], length: int) -> float:
  """Share of the places of planned batches [rows, segments] that hold no token."""
  ids = np.concatenate([b.ravel() for b in batches])
  places = length * sum(len(b) for b in batches)
  return float(1 - sizes[ids[ids >= 0]].sum() / places)
