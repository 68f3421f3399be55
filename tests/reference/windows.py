"""MIL-NCE's evaluation windows one by one, from the published loader in words."""


def starts(duration, num_frames, rate, windows, margin):
  """Seconds at which windows begin: evenly from 0 to the last place, or all at 0."""
  last = max(0.0, duration - num_frames / rate - margin)
  return [last * k / (windows - 1) for k in range(windows)]


def frames(times, duration, start, num_frames, rate):
  """Place of the stored frame nearest to each moment, None behind the end."""
  out = []
  for i in range(num_frames):
    moment = start + i / rate
    if moment >= duration - 1e-4:
      out.append(None)
      continue
    far = [abs(t - moment) for t in times]
    out.append(far.index(min(far)))
  return out
