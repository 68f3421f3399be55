"""Frame samplers one step at a time, from the published rules in words."""

import itertools
import math


def edges(first, last, count):
  """Segments as lists of frames."""
  n = min(count, last - first)
  cut = [first + math.floor(i * (last - first) / n + 1e-9) for i in range(n + 1)]
  return [list(range(a, b)) for a, b in itertools.pairwise(cut)]


def owners(subtitles, frames, period, most, long_s=16.0, kept=11):
  """(subtitle of each frame or -1, subtitles that are kept)."""
  spans = []
  for k, (start, end) in enumerate(subtitles):
    mine = []
    for r in range(math.floor(start / period), math.ceil(end / period)):
      mine.append(r)
    if k == len(subtitles) - 1 and end - start > long_s:
      mine = mine[:kept]
    spans.append([r for r in mine if r < frames])
  keep = []
  for mine in spans:
    keep.append(True)
    if any(r >= most for r in mine):
      break
  keep += [False] * (len(spans) - len(keep))
  out = []
  for r in range(most):
    best, who = -1.0, -1
    for k, (start, end) in enumerate(subtitles):
      if r not in spans[k]:
        continue
      a, b = r * period, (r + 1) * period
      both = max(0.0, min(b, end) - max(a, start))
      share = both / (max(b, end) - min(a, start))
      if share > best:
        best, who = share, k
    out.append(who if who >= 0 and keep[who] else -1)
  return out, keep


def narration_window(times, at, alpha, whole):
  """(start, end) of the clip of a narration."""
  gaps = [b - a for a, b in itertools.pairwise(times)]
  beta = sum(gaps) / len(gaps) if gaps else alpha
  half = beta / (2 * alpha)
  return max(0.0, times[at] - half), min(whole, times[at] + half)


def widened(start, end, least, whole):
  """Grow by small steps to both sides; what has no room grows on the other."""
  step = 1e-3
  while end - start < min(least, whole) - step:
    if start <= 0:
      end += 2 * step
    elif end >= whole:
      start -= 2 * step
    else:
      start, end = start - step, end + step
  return max(start, 0.0), min(end, whole)
