"""How a short narration grows into a clip, one step at a time."""


def grow(start, end, at, min_time):
  """(start, end, order of narrations) from narration `at`."""
  order = [at]
  while True:
    low, high = min(order), max(order)
    if end[high] - start[low] >= min_time or (low == 0 and high == len(start) - 1):
      return start[low], end[high], order
    earlier = end[high] - start[low - 1] if low > 0 else None
    later = end[high + 1] - start[low] if high < len(start) - 1 else None
    if later is None or (earlier is not None and earlier <= later):
      order.append(low - 1)
    else:
      order.append(high + 1)
