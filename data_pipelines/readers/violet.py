"""VIOLET's tables of frames: base64 pictures in tsv, texts in JSON (arXiv 2111.12681).

  img_<name>.tsv     id \t base64 picture \t base64 picture ...; img_<name>.lineidx with
                     the byte offset of each line may lie beside it
  txt_<name>.json    {split: {id: [captions]}}

The pictures were taken evenly over a clip of unknown length, so their times are only
their order.
"""

import pathlib

from data_pipelines.readers import lines, tables
from data_pipelines.readers.clip_row import ClipRow, tidy
from vlp_jax import errors


def read(source) -> list[ClipRow]:
  """Rows of the first img_*.tsv and its txt_*.json; `member` is the line's offset."""
  at = tables.first(source, "img_*.tsv", "*.tsv")
  text = at.with_name(f"{at.stem.replace('img_', 'txt_', 1)}.json")
  splits = tables.value(text)
  rows, places = [], {k: offset for k, (_, offset) in lines.places([at]).items()}
  try:
    for split, given in splits.items():
      for name, captions in given.items():
        if name not in places:
          raise errors.UserError(f"{at} has no line of {name!r}, which {text} names.")
        texts = [captions] if isinstance(captions, str) else captions
        rows.append(
          ClipRow(
            key=name,
            media=pathlib.PurePath(at).name,
            member=str(places[name]),
            split=split,
            captions=tidy(texts),
            group=name,
          )
        )
  except tables.WRONG as error:
    raise errors.UserError(
      f"{text} is no {{split: {{id: [captions]}}}}: {error}."
    ) from None
  return rows
