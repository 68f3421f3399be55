"""A run's clips, found by what one writes: python -m launch.demo --workdir DIR

Opens a page on this machine where a text finds the items of the run's retrieval
evaluation (pip install -r requirements-demo.txt). With --query "a red circle spins" no
page is opened: the best items are printed, and search.html shows them. Items are
embedded once and kept in the workdir.
"""

import os

from absl import flags

from launch import command

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "A run with a retrieval evaluation by texts.")
flags.DEFINE_string("query", None, "A text; the answer is printed.")
flags.DEFINE_string("evaluation", "", "Its name; default: the first one by texts.")
flags.DEFINE_integer("count", 6, "How many items are shown.", lower_bound=1)
flags.DEFINE_integer("port", 7860, "Of the page.", lower_bound=1, upper_bound=65_535)
flags.DEFINE_bool("quiet", False, "No progress bar.")


def main():
  command.require("workdir")
  if FLAGS.query is None:
    gradio = _gradio()
  from vlp_jax import search

  gallery = search.Gallery(FLAGS.workdir, name=FLAGS.evaluation, track=_track)
  if FLAGS.query is None:
    _page(gradio, gallery).launch(server_port=FLAGS.port)
  else:
    _answer(gallery, FLAGS.query)


def _track(batches, total):
  from data_pipelines import progress

  with progress.bar("embed", total, quiet=FLAGS.quiet) as tell:
    for done, batch in enumerate(batches, 1):
      yield batch
      tell(done)


def _gradio():
  try:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    import gradio
  except ImportError:
    raise command.UserError(
      "the page needs gradio: pip install -r requirements-demo.txt; or give --query."
    ) from None
  return gradio


def _answer(gallery, text):
  import rich.table
  from rich import console

  from vlp_jax import report

  found = gallery.find(text, FLAGS.count)
  table = rich.table.Table("place", "item", "score", "what is said of it")
  for place, f in enumerate(found, 1):
    table.add_row(str(place), str(f.item), f"{f.score:.4g}", rich.markup.escape(f.text))
  console.Console().print(table)
  frames = gallery.frames([f.item for f in found])
  items = [
    {"frames": frames.get(f.item), "score": f.score, "text": f.text} for f in found
  ]
  given = dict(results={}, metrics=(), timing=(), name="search.html")
  given |= dict(title=f"Found in {gallery.name}", notes=f"Of {len(gallery.ids)} items.")
  given["examples"] = [{"query": text, "items": items}]
  print(f"report: {report.write(FLAGS.workdir, **given)}")


def _page(gradio, gallery):
  """Blocks with a line for the text and the pictures that it finds."""
  import numpy as np

  from launch import examples
  from vlp_jax.errors import UserError

  def answer(text):
    try:
      found = gallery.find(text, FLAGS.count)
    except UserError as error:
      raise gradio.Error(str(error)) from None
    frames = gallery.frames([f.item for f in found])
    told = [f"{f.score:.3g} · {f.text or f.item}" for f in found]
    rows = [[f.item, round(f.score, 4), f.text] for f in found]
    shown = [
      (np.concatenate(list(examples.spread(frames[f.item])), axis=1), t)
      for f, t in zip(found, told, strict=True)
      if f.item in frames
    ]
    return shown, rows

  with gradio.Blocks(title="vlp_jax") as page:
    gradio.Markdown(f"{len(gallery.ids):,} items of `{gallery.name}`, found by text.")
    text = gradio.Textbox(label="Text", autofocus=True, submit_btn="Find")
    pictures = gradio.Gallery(label="The best first", columns=3, object_fit="contain")
    head = ["item", "score", "what is said of it"]
    table = gradio.Dataframe(headers=head, interactive=False)
    text.submit(answer, text, [pictures, table])
  return page


if __name__ == "__main__":
  command.main(main)
