"""The max-margin ranking loss in loops, from the formula."""


def max_margin(scores, video, where, *, margin, rate=None, diagonal=True):
  """(total, number of terms); `rate` None leaves the weighting out."""
  rows = [i for i in range(len(scores)) if where[i]]
  videos = {video[i] for i in rows}
  weighted = rate is not None and len(rows) > len(videos) > 1
  total, count = 0.0, 0
  for i in rows:
    for j in rows:
      if i == j and not diagonal:
        continue
      weight = 1.0
      if weighted:
        weight = len(videos) * rate
        if video[i] != video[j]:
          weight = len(videos) * (1 - rate) / (len(videos) - 1)
      text = max(0.0, margin + scores[i][j] - scores[i][i])
      clip = max(0.0, margin + scores[i][j] - scores[j][j])
      total += weight * (text + clip)
      count += 1
  return total, count
