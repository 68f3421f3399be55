"""Captions with image regions: users' feature files joined with users' captions.

Result: SequenceExamples of kind text + regions, one a caption
  context  key, group (image), text, tags if known, regions/num, dim, features
           (float16), boxes (float32 [R, 7]), objects, attributes (int32), conf
           (float32), and if stored attribute_conf, probs (float16 [R, C])
and `vocab.txt`. `data_pipelines/readers/` has the formats: of regions `regions.py`, of
captions `image_captions.py`.
"""

from data_pipelines.prepare import _join, _text_regions
from data_pipelines.readers import image_captions
from vlp_jax import errors, resolve

INSIDE = "inside"  # captions that lie in the region files


def prepare(
  source,
  out,
  *,
  regions_format: str = "bua_tsv",
  regions: str = "",
  regions_options: str = "",
  captions_format: str = "coco",
  captions: str = "",
  exclude: str = "",
  vg_image_data: str = "",
  skip_missing: bool = False,
  max_regions: int = 100,
  min_regions: int = 10,
  conf_th: float = 0.0,
  probs: bool = True,
  objects_file: str = "",
  attributes_file: str = "",
  name: str = "image_text",
  licence: str = "see the source",
  limit: int = 0,
  vocab_size: int = 8192,
  cased: bool = False,
  vocab_file: str = "",
  processes: int = 1,
  dry_run: bool = False,
  quiet: bool = False,
) -> dict:
  """Joins region features with captions by image.

    regions_format   bua_tsv, lxmert_tsv, uniter_lmdb, vilbert_lmdb, oscar_tsv, vlp_h5,
                     vlbert_json, boxes_npz, npz
    regions          files or directories, parted by commas, below --source (default:
                     --source itself)
    regions_options  key=value,... of the format's reader
    captions_format  coco, karpathy, flickr, sbu, vg_regions, cc3m, lxmert, uniter,
                     lines, or inside (captions in the region files: Conceptual
                     Captions as ViLBERT stores them)
    captions         files: train=a.json,val=b.json; without a name, the split is the
                     row's or that of the file's name
    exclude          lists of held-out images, or files of Karpathy's splits, whose val
                     and test images leave the training captions
    vg_image_data    image_data.json of Visual Genome, to know these images there
    skip_missing     leave out captions of images without regions; by default they
                     count as damaged
    max_regions      the most confident are kept; with conf_th above 0, those above it,
                     at least min_regions
    probs            class distributions; --no_probs leaves them out, they are much
    objects_file     names of the classes 1, 2, ..., one a line; gives tags
    attributes_file  names of the attributes
    limit            captions of each split, 0 for all
    vocab_size       upper bound of the WordPiece vocabulary learned from the training
                     captions; cased keeps their capitals
    vocab_file       an existing vocab.txt instead; decodes the ids of --captions_format
                     uniter

  A record repeats the regions of its image: 36 regions of 2048 take 150 kB a caption,
  their 1601 probabilities 115 kB more. --dry_run says how much it will be.

  Returns: dataset_info, or the estimate of a dry run.
  """
  known = (*image_captions.FORMATS, INSIDE)
  if captions_format not in known:
    near = resolve.nearest(captions_format, known)
    raise errors.UserError(f"no caption format {captions_format!r}.{near}")
  if limit < 0:
    raise errors.UserError(f"limit={limit}: 0 for all, or a number of captions.")
  names = _join.class_names(objects_file, attributes_file)
  feed = _join.sources(source, regions, regions_format, regions_options, objects_file)
  places = feed.places()
  if captions_format == INSIDE:
    rows = _inside(places, captions or "train", limit)
    splits, lost = rows, {}
  else:
    keywords = {"words": _join.decoder(vocab_file)}
    told = _join.annotations(
      source,
      captions,
      image_captions,
      captions_format,
      limit=limit,
      **(keywords if captions_format == "uniter" else {}),
    )
    without = _join.held_out(source, exclude, vg_image_data)
    splits, lost = _join.join(told, places, without=without, skip_missing=skip_missing)
  rule = _text_regions.Rule(
    max_regions,
    min(min_regions, max_regions),
    conf_th,
    probs,
    tuple(names.get("objects", ()))[1:],
  )
  return _text_regions.write(
    out,
    splits,
    feed,
    rule,
    columns=(),
    settings={
      "dataset": "image_text",
      "captions_format": captions_format,
      "limit": limit,
    },
    info={"name": name, "licence": licence, "classes": names, "left_out": lost},
    vocab={"vocab_file": vocab_file, "vocab_size": vocab_size, "cased": cased},
    engine={"processes": processes, "dry_run": dry_run, "quiet": quiet},
  )


def _inside(places, split: str, limit: int) -> dict[str, list[dict]]:
  """A row for each image; its text is read with its regions."""
  rows = [
    {"key": key, "text": "", "images": [key], "at": [at]} for key, at in places.items()
  ]
  return {split: rows[: limit or None]}
