"""`report.html`: one file that shows a colleague what a run did, without the network.

Styles, curves (SVG) and pictures (data URIs) are all inside, a policy in its head
forbids every fetch, and whatever comes from users or data is escaped.
"""

import base64
import html
import io
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
from etils import epath

from vlp_jax import jsonl, monitor, plots
from vlp_jax import report_style as style
from vlp_jax import workdir as files
from vlp_jax.metrics import Result


def write(
  workdir: epath.PathLike,
  *,
  results: Mapping[str, Result | Mapping],
  metrics: Sequence[Mapping] | None = None,
  timing: Sequence[Mapping] | None = None,
  examples: Sequence[Mapping] = (),
  pictures: Sequence[Mapping] = (),
  figures: Sequence[tuple[str, str]] = (),
  config: Mapping | None = None,
  env: Mapping | None = None,
  notes: str | Sequence[str] = (),
  title: str = "Training report",
  name: str = "report.html",
) -> epath.Path:
  """Writes `workdir/report.html`, or another `name`.

  Args:
    results: {metric: Result, or a dict with `value` and, if known, `chance`, `n`, `ci`,
      `protocol`, and `baselines` {name: value}}.
    metrics, timing: rows with "step", as of `metrics.jsonl` and `timing.jsonl`; None
      reads the workdir's.
    examples: dicts with `query` (text), `rank` of the right item from 1, and `items`,
      the best first: dicts with `frames` (uint8 [T, H, W, 3] or [H, W, 3]), `right`
      (bool) and, if wanted, `text` and `score`. One without `items` is its own item;
      where neither `rank` nor `right` is told, nothing is called right or wrong.
    pictures: where a sound comes from: dicts with `caption`, `verdict`, `right` (bool)
      and `frames` as above, a frame beside its heat map.
    figures: (caption, `<svg>` element of `plots`).
    config, env: shown as JSON; env holds versions, devices, the commit.
    notes: paragraphs under the title.
  Returns: the path. Raises ImportError without matplotlib (curves) or Pillow (frames).
  """
  workdir = epath.Path(workdir)
  if metrics is None:
    metrics = jsonl.read(workdir / "metrics.jsonl")
  if timing is None:
    timing = jsonl.read(workdir / "timing.jsonl")
  results = {k: _entry(r) for k, r in results.items()}
  notes = [notes] if isinstance(notes, str) else notes
  speed = [
    {"step": row["step"]} | {k: row[k] for k in style.SPEED if k in row}
    for row in timing
  ]
  parts = [
    f"<header><h1>{_text(title)}</h1>",
    *(f"<p>{_text(note)}</p>" for note in notes),
    _summary(metrics, timing),
    "</header>",
    _section("Results", _results(results)),
    _section("Examples", "".join(map(_example, examples))),
    _section("Where the sound comes from", "".join(map(_picture, pictures))),
    _section("Figures", _figures(figures)),
    _section("Curves", _curves(metrics, results)),
    _section("Speed", _curves(speed, {})),
    _section("Configuration", _json("The whole configuration", config)),
    _section("Environment", _pairs(env)),
  ]
  page = style.PAGE.format(
    title=_text(title), style=style.CSS, body="\n".join(p for p in parts if p)
  )
  workdir.mkdir(parents=True, exist_ok=True)
  path = workdir / name
  path.write_text(page)
  return path


def of_run(workdir: epath.PathLike, **more) -> epath.Path:
  """The report of a run from the files it left; `more` as in `write`."""
  config, env = (
    files.read_json(epath.Path(workdir) / f"{n}.json") for n in ("config", "env")
  )
  results = files.read_results(workdir)
  return write(workdir, results=results, config=config, env=env, **more)


def _text(x):
  return html.escape(str(x))


def _section(title, body):
  return f"<section><h2>{_text(title)}</h2>{body}</section>" if body else ""


def _entry(result):
  entry = result._asdict() if isinstance(result, Result) else dict(result)
  nan = dict.fromkeys(("value", "chance", "ci"), math.nan)
  return (
    nan
    | {"n": 0, "protocol": "", "baselines": {}}
    | {k: math.nan if v is None else v for k, v in entry.items()}
  )


def _summary(metrics, timing):
  tiles = []
  if metrics:
    tiles.append(("steps", f"{metrics[-1].get('step', 0):,}"))
  if timing:
    wall, last = 0.0, 0.0
    for row in timing:  # wall_s starts again with each process
      wall += row["wall_s"] - (last if row["wall_s"] >= last else 0.0)
      last = row["wall_s"]
    tiles.append(("training time", monitor.duration(wall)))
    for key, label in style.SPEED.items():
      values = [row[key] for row in timing if row.get(key) is not None]
      if values and max(values) > 0:
        tiles.append((f"{label}, median", style.number(key, float(np.median(values)))))
  cells = "".join(
    f"<div><b>{_text(v)}</b><span>{_text(k)}</span></div>" for k, v in tiles
  )
  return f'<div class="tiles">{cells}</div>' if cells else ""


def _results(results):
  if not results:
    return "<p>No evaluation was run.</p>"
  extra = list(dict.fromkeys(k for r in results.values() for k in r["baselines"]))
  names = ["metric", "this run", "", "chance", *extra, "over"]
  head = "".join(f'<th scope="col">{_text(h)}</th>' for h in names)
  rows = []
  for name, r in results.items():
    value = style.number(name, r["value"])
    if math.isfinite(r["ci"]):
      value += f" <small>± {style.number(name, r['ci'])}</small>"
    cells = [
      f'<th scope="row"><code>{_text(name)}</code>'
      f"<p>{_text(style.explain(name))}</p></th>",
      f'<td class="value">{value}</td>',
      f"<td>{_bar(name, r)}</td>",
      f"<td>{style.number(name, r['chance'])}</td>",
      *(
        f"<td>{style.number(name, r['baselines'].get(b, math.nan))}</td>" for b in extra
      ),
      f'<td title="{_text(r["protocol"])}">{r["n"]:,}</td>',
    ]
    rows.append(f"<tr>{''.join(cells)}</tr>")
  protocols = {k: r["protocol"] for k, r in results.items() if r["protocol"]}
  return (
    f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
    f"<tbody>{''.join(rows)}</tbody></table></div>"
    '<p class="caption">± is half of the 95 % interval over the evaluated examples. In '
    "the bars, the thin line is that interval and the tick marks chance.</p>"
    + _json("How each figure was made", protocols)
  )


def _bar(name, r):
  """A bar from 0 to 1 with interval and chance, for shares only."""
  if not style.SHARES.search(name) or not 0 <= r["value"] <= 1:
    return ""
  x = lambda v: 120 * min(max(v, 0.0), 1.0)
  parts = [f'<rect class="data" y="4" width="{x(r["value"]):.1f}" height="8"/>']
  if math.isfinite(r["ci"]):
    low, high = x(r["value"] - r["ci"]), x(r["value"] + r["ci"])
    parts.append(f'<path class="ink" d="M{low:.1f} 8H{high:.1f}"/>')
  if math.isfinite(r["chance"]):
    parts.append(f'<path class="tick" d="M{x(r["chance"]):.1f} 1V15"/>')
  value, chance = (style.number(name, r[k]) for k in ("value", "chance"))
  label = f"{value}, chance {chance}"
  return (
    f'<svg class="bar" viewBox="0 0 120 16" role="img" aria-label="{_text(label)}">'
    f'<rect class="rail" y="4" width="120" height="8"/>{"".join(parts)}</svg>'
  )


def _curves(rows, results):
  keys = dict.fromkeys(k for row in rows for k in row if k != "step")
  figures = []
  for key in sorted(keys, key=lambda k: (k != "loss", k)):
    have = [(row["step"], row[key]) for row in rows if key in row]
    numeric = [(s, v) for s, v in have if v is None or isinstance(v, (int, float))]
    if sum(v is not None for _, v in numeric) < min(len(rows), 2):
      continue  # one point is no curve: it stands in the table
    chance = results[key]["chance"] if key in results else None
    svg = plots.curve(
      *zip(*numeric, strict=True), label=f"{key} over steps", chance=chance
    )
    told = style.explain(key) + (
      " Dashed: chance." if chance == chance and chance else ""
    )
    figures.append((f"<code>{_text(key)}</code> {_text(told)}", svg))
  return _side_by_side(figures)


def _figures(figures):
  return _side_by_side([(_text(caption), svg) for caption, svg in figures])


def _side_by_side(figures):
  """Figures with captions that are HTML already."""
  cells = "".join(
    f"<figure><figcaption>{told}</figcaption>{svg}</figure>" for told, svg in figures
  )
  return f'<div class="curves">{cells}</div>' if cells else ""


def _example(example):
  items = example.get("items", [example])
  rank = example.get("rank")
  judged = rank is not None or any("right" in item for item in items)
  first = rank == 1 or (rank is None and bool(items[0].get("right")))
  where = "right item" + (
    f" at place {rank}" if rank else " first" if first else " missed"
  )
  found = []
  for place, item in enumerate(items, 1):
    right = bool(item.get("right")) or not judged
    about = [str(place), *(["right" if right else "wrong"] if judged else [])]
    about += [f"{item['score']:.3g}"] if item.get("score") is not None else []
    about += [str(item["text"])] if item.get("text") else []
    found.append(
      f'<li class="{"right" if right else "wrong"}">{_frames(item.get("frames"))}'
      f"<span>{_text(' · '.join(about))}</span></li>"
    )
  kind, query = "right" if first else "wrong", _text(example["query"])
  verdict = f' <em class="{kind}">{_text(where)}</em>' if judged else ""
  return f"<article><h3>“{query}”{verdict}</h3><ol>{''.join(found)}</ol></article>"


def _picture(picture):
  kind = "right" if picture["right"] else "wrong"
  return (
    f"<article><h3>{_text(picture['caption'])} "
    f'<em class="{kind}">{_text(picture["verdict"])}</em></h3>'
    f"<ol><li>{_frames(picture['frames'])}</li></ol></article>"
  )


def _frames(frames, most=3, height=96):
  """First, middle and last frame, side by side, as one JPEG data URI."""
  if frames is None:
    return ""
  try:
    from PIL import Image
  except ImportError as e:
    raise ImportError("frames in report.html need Pillow: pip install pillow") from e
  frames = np.asarray(frames)
  frames = frames[None] if frames.ndim == 3 else frames
  if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
    raise ValueError(
      f"frames are {frames.dtype} {frames.shape}; expected uint8 [T, H, W, 3]."
    )
  pick = np.unique(np.linspace(0, len(frames) - 1, most).round().astype(int))
  gap = ((0, 0), (0, max(frames.shape[2] // 24, 1)), (0, 0))
  gaps = [np.pad(frame, gap, constant_values=128) for frame in frames[pick[:-1]]]
  strip = Image.fromarray(np.concatenate([*gaps, frames[pick[-1]]], axis=1))
  if strip.height > 2 * height:
    strip = strip.resize((strip.width * 2 * height // strip.height, 2 * height))
  file = io.BytesIO()
  strip.save(file, "JPEG", quality=85)
  data = base64.b64encode(file.getvalue()).decode()
  return (
    f'<img alt="{len(pick)} frames of the clip" src="data:image/jpeg;base64,{data}">'
  )


def _json(label, x):
  if not x:
    return ""
  told = json.dumps(x, indent=2, default=str, ensure_ascii=False)
  return f"<details><summary>{_text(label)}</summary><pre>{_text(told)}</pre></details>"


def _pairs(x):
  if not x:
    return ""
  show = lambda v: v if isinstance(v, str) else json.dumps(v, default=str)
  rows = (f"<dt>{_text(k)}</dt><dd>{_text(show(v))}</dd>" for k, v in x.items())
  return f"<dl>{''.join(rows)}</dl>"
