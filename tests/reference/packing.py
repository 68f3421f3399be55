"""Packing one example at a time, in plain loops."""

import numpy as np


def pack(singles, table, *, length, widths, pad_id):
  """A packed batch out of single examples.

  Args:
    singles: example -> {key: array without B, unpadded}; table: [B, S] examples, -1 for
      none; widths: stream -> places.
  """
  rows, count = table.shape
  out, first = {}, singles[int(table.max())]
  for stream, width in widths.items():
    for key, x in first.items():
      if key.startswith(f"{stream}_"):
        fill = pad_id if key == "text_ids" else 0
        out[key] = np.full((rows, width, *x.shape[1:]), fill, x.dtype)
    out[f"{stream}_mask"] = np.zeros((rows, width), bool)
    out[f"{stream}_segments"] = np.zeros((rows, width), np.int32)
  out["text_positions"] = np.zeros((rows, widths["text"]), np.int32)
  out["segment_starts"] = np.zeros((rows, count), np.int32)
  out["fuse_index"] = np.zeros((rows, length), np.int32)
  for key, x in first.items():
    if np.ndim(x) == 0:
      out[key] = np.zeros((rows, count), np.asarray(x).dtype)
  out["example_mask"] = table >= 0
  for row in range(rows):
    at = dict.fromkeys(widths, 0)
    for s, example in enumerate(table[row]):
      if example < 0:
        continue
      one = singles[int(example)]
      out["segment_starts"][row, s] = at["text"]
      for stream in widths:
        size = len(next(x for k, x in one.items() if k.startswith(f"{stream}_")))
        for n in range(size):
          for key, x in one.items():
            if key.startswith(f"{stream}_"):
              out[key][row, at[stream]] = x[n]
          out[f"{stream}_mask"][row, at[stream]] = True
          out[f"{stream}_segments"][row, at[stream]] = s + 1
          if stream == "text":
            out["text_positions"][row, at[stream]] = n
          at[stream] += 1
      for key, x in one.items():
        if np.ndim(x) == 0:
          out[key][row, s] = x
    both = np.concatenate([out[f"{s}_mask"][row] for s in widths])
    order = [*np.flatnonzero(both), *np.flatnonzero(~both)]
    out["fuse_index"][row] = order[:length]
  return out
