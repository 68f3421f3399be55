"""A page that shows what a data set holds, complete in one file, without the network.

Frames are put in as they are stored, regions are drawn as boxes over an empty picture,
and whatever comes from the data is escaped.
"""

import base64
import html
from collections.abc import Mapping, Sequence

import numpy as np

from vlp_jax import report_style as style

FRAMES = 6  # of a clip
BOXES = 40  # of an image, the first in stored order
_CSS = """
.sheet { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(19rem, 1fr)); }
.sheet article { margin: 0; }
.sheet .frames { display: flex; gap: 2px; margin-bottom: .5rem; }
.sheet .frames img { width: calc(100% / 6); border: 0; border-radius: 0; }
.sheet svg { width: 100%; background: var(--ground); margin-bottom: .5rem; }
.sheet p { margin: .2rem 0; font-size: .85rem; overflow-wrap: anywhere; }
.sheet small { display: block; }
td { white-space: normal; }
"""


def _text(x) -> str:
  return html.escape(str(x))


def _string(value) -> str:
  return bytes(value).decode("utf-8", "replace")


def _frames(lists) -> str:
  stored = [bytes(step[0]) for step in lists.get("video/frames", ()) if len(step)]
  some = np.unique(np.linspace(0, len(stored) - 1, FRAMES).round().astype(int))
  images = (
    f'<img alt="frame {k}" src="data:image/jpeg;base64,'
    f'{base64.b64encode(stored[k]).decode()}">'
    for k in some
    if stored
  )
  return f'<div class="frames">{"".join(images)}</div>' if stored else ""


def _colour(number: int) -> str:
  """Of a class: far apart for neighbours, legible on light and dark ground."""
  return f"hsl({number * 137 % 360} 65% 50%)"


def boxes(context: Mapping, prefix: str, names: Sequence[str] = ()) -> str:
  """An SVG of an image's boxes in 0..1, each with the name of its class as title."""
  num = int(context[f"{prefix}/num"][0])
  raw = np.frombuffer(bytes(context[f"{prefix}/boxes"][0]), "<f4").reshape(num, -1)
  classes = np.zeros(num, int)
  if context.get(f"{prefix}/objects"):
    classes = np.frombuffer(bytes(context[f"{prefix}/objects"][0]), "<i4")
  shapes = []
  for box, number in zip(raw[:BOXES], classes[:BOXES].tolist(), strict=True):
    x, y, right, bottom = (float(v) for v in box[:4])
    name = names[number] if 0 <= number < len(names) else f"class {number}"
    colour = _colour(number)
    shapes.append(
      f'<rect x="{320 * x:.1f}" y="{180 * y:.1f}" width="{320 * (right - x):.1f}" '
      f'height="{180 * (bottom - y):.1f}" fill="{colour}" fill-opacity=".15" '
      f'stroke="{colour}"><title>{_text(name)}</title></rect>'
    )
  told = f"{num} regions" + (f", {BOXES} shown" if num > BOXES else "")
  drawing = f'<svg viewBox="0 0 320 180" role="img">{"".join(shapes)}</svg>'
  return f"{drawing}<small>{_text(prefix)}: {told}</small>"


def _facts(context, lists, classes) -> list[str]:
  """Lines on what is neither picture nor array."""
  out = []
  for name, values in context.items():
    known = name.split("/", 1)[-1]
    if name in ("key", "text", "audio/pcm") or not len(values):
      continue
    if isinstance(values, np.ndarray):
      told = ", ".join(f"{v:g}" for v in values[:8].tolist())
      if name.startswith("label") and known in classes and values[0] >= 0:
        told = f"{classes[known][int(values[0])]}"
      out.append(f"{name}: {told}")
    elif all(len(bytes(v)) <= 200 for v in values) and not name.startswith("regions"):
      out.append(f"{name}: {', '.join(map(_string, values[:8]))}")
  if context.get("audio/pcm"):
    rate = float(context["audio/rate_hz"][0])
    seconds = len(context["audio/pcm"][0]) / 2 / max(rate, 1)
    out.append(f"sound: {seconds:.1f} s at {rate:g} Hz")
  return out


def _texts(context, lists) -> list[str]:
  out = [_string(v) for v in context.get("text", ())]
  for name, steps in lists.items():
    if not name.endswith("/text"):
      continue
    stream = name.removesuffix("/text")
    times = [lists.get(f"{stream}/{k}") for k in ("start", "end")]
    for k, step in enumerate(steps[:8]):
      when = ""
      if all(times):
        when = f" ({float(times[0][k][0]):.1f} to {float(times[1][k][0]):.1f} s)"
      out.append(f"{stream}{when}: {' '.join(map(_string, step))}")
  return out


def example(place: int, context: Mapping, lists: Mapping, classes: Mapping) -> str:
  """One record as an article."""
  key = " ".join(map(_string, context.get("key", ()))) or "no key"
  parts = [f"<h3>{_text(key)}</h3>", _frames(lists)]
  for name in context:
    if name.endswith("/boxes"):
      prefix = name.removesuffix("/boxes")
      parts.append(boxes(context, prefix, classes.get("objects", ())))
  parts += [f"<p>{_text(line)}</p>" for line in _texts(context, lists)]
  parts += [f"<small>{_text(x)}</small>" for x in _facts(context, lists, classes)]
  return f"<article>{''.join(parts)}<small>record {place}</small></article>"


def page(
  facts: Sequence[tuple[str, str]],
  splits: Sequence[Sequence[str]],
  lines: Sequence[str],
  split: str,
  examples: Sequence[tuple[int, Mapping, Mapping]],
  classes: Mapping[str, Sequence[str]],
) -> str:
  """The whole HTML.

  Args:
    facts: (name, value) of the data set.
    splits: (split, examples, shards, size, columns) each.
    lines: on lengths.
    split: of the examples, which are (place, context, lists).
    classes: name -> class names.
  """
  title = dict(facts).get("name", "data set")
  pairs = "".join(f"<dt>{_text(k)}</dt><dd>{_text(v)}</dd>" for k, v in facts)
  head = "".join(
    f"<th>{h}</th>" for h in ("split", "examples", "shards", "size", "columns")
  )
  cells = lambda row: "".join(f"<td>{_text(x)}</td>" for x in row[1:])
  rows = "".join(f"<tr><th>{_text(r[0])}</th>{cells(r)}</tr>" for r in splits)
  told = "\n".join(lines)
  cards = "".join(example(*one, classes) for one in examples)
  body = f"""<header><h1>{_text(title)}</h1></header>
<section><h2>Splits</h2><div class="wide"><table><thead><tr>{head}</tr></thead>
<tbody>{rows}</tbody></table></div></section>
<section><h2>Lengths</h2><pre>{_text(told)}</pre></section>
<section><h2>Examples of {_text(split)}</h2><div class="sheet">{cards}</div></section>
<section><h2>About</h2><dl>{pairs}</dl></section>"""
  return style.PAGE.format(title=_text(title), style=style.CSS + _CSS, body=body)
