"""AudioSet and AudioCaps: 10 s pieces of YouTube videos, labelled or described.

  read       {balanced_train,unbalanced_train,eval}_segments.csv with three lines of
             comments: YTID, start_seconds, end_seconds, "label,label"; beside it
             class_labels_indices.csv: index, mid, display_name (527 classes)
  audiocaps  {train,val,test}.csv: audiocap_id, youtube_id, start_time, caption
             (several captions of a clip in val and test are one row; MIT)
  ontology   ontology.json: [{id, name, child_ids, restrictions, ...}]

Files are the pieces, `<id>`, `Y<id>`, `<id>_<start>` or `<id>_<start ms>_<end ms>` with
any ending; with whole=true they are the whole videos and the piece is cut from them.
"""

from collections.abc import Mapping
from typing import NamedTuple

from data_pipelines.readers import tables
from data_pipelines.readers.clip_row import ClipRow, bad, seconds, span, tidy
from vlp_jax import errors

LENGTH_S = 10.0
CLASSES = "class_labels_indices.csv"


class Node(NamedTuple):
  """A sound of the ontology."""

  name: str
  children: tuple[str, ...]
  restrictions: tuple[str, ...]  # "abstract", "blacklist"


def ontology(path) -> dict[str, Node]:
  """Id -> node of ontology.json.

  Raises: UserError if a child is not defined.
  """
  try:
    nodes = {
      n["id"]: Node(n["name"], tuple(n["child_ids"]), tuple(n.get("restrictions", ())))
      for n in tables.value(path)
    }
  except (KeyError, TypeError) as error:
    raise errors.UserError(
      f"{path}: no ontology: {type(error).__name__} {error}."
    ) from None
  for name, node in nodes.items():
    unknown = [c for c in node.children if c not in nodes]
    if unknown:
      raise errors.UserError(f"{path}: {name} has unknown children {unknown}.")
  return nodes


def above(nodes: Mapping[str, Node], name: str) -> set[str]:
  """All sounds that a sound is a kind of."""
  parents = {c: {p for p, n in nodes.items() if c in n.children} for c in nodes}
  found, todo = set(), [name]
  while todo:
    new = parents[todo.pop()] - found
    found |= new
    todo += new
  return found


def classes(path) -> dict[str, str]:
  """Id -> display name of class_labels_indices.csv, in the order of the indices.

  Raises: UserError for a line without index, id and name.
  """
  rows = list(tables.sound(path, ("index", "mid", "display_name")))
  try:
    rows.sort(key=lambda row: int(row["index"]))
  except ValueError as error:
    raise errors.UserError(f"{path}: an index is no number: {error}.") from None
  return {row["mid"]: row["display_name"] for row in rows}


def _names(video, start, end) -> tuple[str, ...]:
  ms = f"{video}_{round(start * 1000)}_{round(end * 1000)}"
  return (f"Y{video}", f"{video}_{start:g}", f"{video}_{start:.3f}", ms)


def _piece(video, start, end, split, whole) -> ClipRow:
  return ClipRow(
    key=f"{video}_{start:g}",
    media=video,
    also=() if whole else _names(video, start, end),
    split=split,
    start=start if whole else 0.0,
    end=end if whole else None,
    group=video,
  )


def read(source, *, whole: bool = False) -> list[ClipRow]:
  """Rows of AudioSet: `labels` names their classes, `targets` numbers them."""
  at = tables.first(source, "*_segments.csv", "*.csv")
  split = tables.split_of(at)
  known = at.parent / CLASSES
  if not known.is_file():
    raise errors.UserError(f"{known} is missing; it numbers and names the classes.")
  names, rows = classes(known), []
  numbers = {mid: k for k, mid in enumerate(names)}
  for line, row in tables.fields(at, tight=True):
    if row[0].startswith("#"):
      continue
    try:
      video, start, end, labels = row
      piece = _piece(video, *span(start, end), split, whole)
      mids = [m.strip() for m in labels.split(",")]
      about = {
        "labels": [names[m] for m in mids],
        "targets": [numbers[m] for m in mids],
      }
      rows.append(piece._replace(labels=about))
    except (KeyError, ValueError) as error:
      rows.append(bad(f"{at.name}:{line}", error, split))
  return rows


def audiocaps(source, *, whole: bool = False) -> list[ClipRow]:
  """Rows of AudioCaps, one a clip with all of its captions."""
  at = tables.first(source, "val.csv", "*.csv")
  split, rows = tables.split_of(at), {}
  for line, row in tables.rows(at, ("youtube_id", "start_time", "caption")):
    try:
      if isinstance(row, Exception):
        raise row
      video, start = row["youtube_id"], seconds(row["start_time"])
      piece = _piece(video, start, start + LENGTH_S, split, whole)
      before = rows.setdefault(piece.key, piece)
      rows[piece.key] = before._replace(
        captions=before.captions + tidy([row["caption"]])
      )
    except ValueError as error:
      rows[f"{at.name}:{line}"] = bad(f"{at.name}:{line}", error, split)
  return list(rows.values())
