"""How `report.html` looks and speaks: page, style sheet, words for metrics, numbers."""

import math
import re

SPEED = {  # columns of timing.jsonl that are shown
  "examples_per_s": "examples/s",
  "tokens_per_s": "useful tokens/s",
  "wait_share": "waiting for data",
}

# name -> one sentence for people who do not know the metric; the first that matches.
EXPLAIN = (
  (r"recall@1$", "Share of queries whose right item comes first."),
  (r"recall@(\d+)$", "Share of queries whose right item is among the first {}."),
  (r"median_rank$", "Place of the right item for the middle query; 1 is best."),
  (
    r"^probe_(\w+)_shuffled$",
    "Control: the probe for {} on clips with their frames in shuffled order.",
  ),
  (
    r"^probe_(\w+)$",
    "Share of test clips whose {} a linear classifier reads out of frozen embeddings.",
  ),
  (r"(?:accuracy|top)@(\d+)$", "Share with the right class among the first {}."),
  (
    r"two_way_accuracy$",
    "Share of clips that fit their own sound better than another.",
  ),
  (r"accuracy$", "Share of right answers."),
  (
    r"ndcg@(\d+)$",
    "How well the first {} clips found share classes; 1 is the best order.",
  ),
  (r"peak_in_box$", "Share of maps whose peak lies in the thing that sounds."),
  (r"other_sound_in_box$", "Control: the same with the sound of another clip."),
  (r"centre_in_box$", "Baseline: the middle of every picture."),
  (r"grad_norm$", "Norm of the gradient before clipping."),
  (r"(?:^|[/_])lr$|learning_rate", "Step size of the optimiser."),
  (r"overflow$", "Share of what found no place in a fixed shape and was left out."),
  (r"skipped$", "Steps that were not taken because a number was not finite."),
  (r"examples_per_s$", "Examples a second, without padding."),
  (r"tokens_per_s$", "Tokens a second, without padding."),
  (r"wait_share$", "Share of the time in which the device waited for data."),
  (r"nce$", "Contrastive loss in nats: how well right pairs stand out from the rest."),
  (r"loss", "What training makes small, in nats for likelihoods."),
)
SHARES = re.compile(r"recall@|@\d+$|accuracy|^probe_|_share$|_in_box$")
_ARROWS = {"t2v": "text to video", "v2t": "video to text"}
_ARROWS |= {"t2i": "text to image", "i2t": "image to text"}
_ARROWS |= {"v2a": "video to sound", "a2v": "sound to video"}
_ARROWS |= {"v2v": "video to video", "a2a": "sound to sound"}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""

CSS = """
:root {
  --ground: #fbfbf9; --card: #ffffff; --ink: #1d2126; --soft: #5d6670;
  --line: #e2e4e1; --data: #3b82d6; --right: #17734a; --wrong: #a2432f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --card: #1d2126; --ink: #e6e8ea; --soft: #9aa4ae;
    --line: #31373e; --data: #3b82d6; --right: #5cc796; --wrong: #ec907b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", sans-serif;
}
main { max-width: 64rem; margin: 0 auto; padding: 3rem 1.5rem 5rem; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 .5rem; }
h2 { font-size: 1.25rem; letter-spacing: -.01em; margin: 3rem 0 1rem; }
h3 { font-size: 1rem; margin: 0 0 .75rem; }
header p { color: var(--soft); max-width: 44rem; margin: .25rem 0; }
code, pre { font: .85em/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem; margin-top: 1.5rem; }
.tiles div {
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .6rem 1rem; min-width: 8rem;
}
.tiles b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.tiles span, .caption { color: var(--soft); font-size: .85rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .55rem .75rem; vertical-align: top; }
th:first-child { text-align: left; padding-left: 0; font-weight: 400; }
thead th { color: var(--soft); font-size: .8rem; border-bottom: 2px solid var(--line); }
tbody tr { border-bottom: 1px solid var(--line); }
tbody th p { margin: 0; color: var(--soft); font-size: .85rem; max-width: 26rem; }
td { white-space: nowrap; }
.value { font-weight: 600; }
small { color: var(--soft); font-weight: 400; }
.bar { width: 7.5rem; height: 1rem; vertical-align: middle; }
.bar .rail { fill: var(--line); }
.bar .data { fill: var(--data); }
.bar path { stroke: var(--ink); fill: none; stroke-width: 1.2; }
.bar .tick { stroke-width: 2; }
.curves {
  display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr));
}
figure, article, details {
  background: var(--card); border: 1px solid var(--line); border-radius: .5rem;
  padding: .9rem 1rem; margin: 0 0 1rem;
}
.curves figure {
  margin: 0; display: flex; flex-direction: column; justify-content: space-between;
}
figcaption { font-size: .85rem; color: var(--soft); margin-bottom: .5rem; }
figcaption code { color: var(--ink); font-size: 1em; font-weight: 600; }
figure svg { width: 100%; height: auto; color: var(--ink); font-family: inherit; }
article ol {
  list-style: none; display: grid; gap: .6rem; margin: 0; padding: 0;
  grid-template-columns: repeat(auto-fill, minmax(10.5rem, 1fr));
}
article li { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; }
article img {
  display: block; width: 100%; border-radius: .3rem; margin-bottom: .25rem;
  border: 3px solid transparent;
}
li.right img { border-color: var(--right); }
li.right span, em.right { color: var(--right); font-weight: 600; }
em { font-style: normal; font-size: .85rem; font-weight: 600; margin-left: .4rem; }
em.wrong { color: var(--wrong); }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; margin: .75rem 0 0; }
dl {
  display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.5rem; margin: 0;
}
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
@media print { main { padding: 0; } figure, article { break-inside: avoid; } }
"""


def explain(name: str) -> str:
  """One sentence on a metric, or "" if its name says nothing known."""
  arrow = next((f"{_ARROWS[a]}: " for a in _ARROWS if name.startswith(f"{a}_")), "")
  for pattern, sentence in EXPLAIN:
    found = re.search(pattern, name)
    if found:
      text = sentence.format(*(g.replace("_", " ") for g in found.groups()))
      return (arrow + text[0].lower() + text[1:]).capitalize() if arrow else text
  return ""


def number(name: str, x: float) -> str:
  """34.2 % for shares, four digits otherwise, a dash for what is unknown."""
  if not math.isfinite(x):
    return "–"
  if SHARES.search(name) and -1 <= x <= 1:
    return f"{100 * x:.1f} %"
  return f"{x:,.0f}" if abs(x) >= 1e3 else f"{x:.4g}"
