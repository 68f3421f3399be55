"""What the tasks of `data_pipelines` give in training: keys of a batch and their sizes.

What the headers of the tasks say, in numbers: nothing of them is imported, and a
test holds both together. Sizes go by the letters of `vlp_jax.batch`.
"""

from collections.abc import Mapping
from typing import Any

from vlp_jax import batch as batch_lib
from vlp_jax import resolve
from vlp_jax.errors import UserError
from vlp_jax.layers import logmel

WIDTHS = ("D", "C")  # of features: the model's own numbers
HINTS = {"S": "set input.frame_rate and input.audio_hz"}
UNKNOWN = {  # keywords of an input whose shapes only the data tell
  "pack": "rows are packed by the lengths of the data; set --config.input.pack=None",
}
LABELS = ("label_shape", "label_colour", "label_action")
STEPS = 11  # of CrossTask's longest task; the data have the number
LABEL_AXES = {"label_steps": ["K"], "label_constraint": ["T", "K"]}


def of(
  task: str, given: Mapping[str, Any], model: Any
) -> tuple[list[str], dict[str, int]]:
  """Keys and known sizes of the batches of an input.

  Args:
    given: its keywords with the defaults of the task's `define`.
  Raises: UserError for a task that does not train, or of no model here.
  """
  tasks = {
    "clip_features": _clip_features,
    "moments": _moments,
    "narrated_clips": _narrated_clips,
    "sampled_clips": _sampled_clips,
    "sentences": _sentences,
    "sounds": _sounds,
    "text_regions": _text_regions,
    "vcr": _vcr,
    "video_segments": _video_segments,
  }
  if task not in tasks:
    known = resolve.nearest(task, tasks)
    raise UserError(f"input.task {task!r} has no shapes for training here.{known}")
  keys, sizes = tasks[task](given, model)
  return keys, {k: v for k, v in sizes.items() if v is not None}


def plain(given: Mapping[str, Any], model: Any) -> dict[str, int]:
  """Sizes by the usual keywords, for an input that names no task."""
  names = {
    "T": ("num_frames", "num_clips"),
    "H": ("size",),
    "W": ("size",),
    "R": ("max_regions", "num_regions"),
    "K": ("candidates", "num_choices"),
    "L": ("max_words", "max_tokens"),
  }
  out = {"S": _samples(given, model)}
  for letter, known in names.items():
    out[letter] = next((given[n] for n in known if isinstance(given.get(n), int)), None)
  if "max_words" not in given and out["L"]:  # without [CLS] and [SEP]
    out["L"] += 2
  return {k: v for k, v in out.items() if v is not None}


def axes(key: str, known: Mapping[str, int]) -> tuple[list[str], tuple[str, ...]]:
  """(letters of the axes after B, accepted dtypes, the stored one first)."""
  if key.startswith(batch_lib.LABEL_PREFIX):
    if key == "label_box":
      return ["4"], ("float32",)
    return LABEL_AXES.get(key, []), ("int32",)
  names, dtypes = batch_lib.FIELDS[key]
  if key == "label" and "classes" in known:  # whole numbers, a class of each second
    return [str(known["classes"])], dtypes
  if key == "label":
    return ([str(known["labels"])], ("float32",)) if "labels" in known else ([], dtypes)
  if key == "answers":
    return [str(known["answers"])], ("float32",)
  letters = names.split()
  if key.startswith(batch_lib.VIDEOS):
    letters = {"frames": ["T", "H", "W", "3"]}.get(key.rsplit("_", 1)[1], ["T"])
    letters = (["N"] if "N" in known else []) + letters
  letters = [n for n in letters if n != "..."]
  return letters, ("float32",) if key == "clips_features" else dtypes


def width(key: str, model: Any) -> int:
  """Of features and probabilities: what the model says it takes."""
  if key.endswith("_probs"):
    return model.region_classes
  if key.startswith("regions"):
    return model.region_dim
  both = getattr(model, "feature_dims", None)
  return sum(both) if both else model.feature_dim


def _words(stream):
  return [f"{stream}_ids", f"{stream}_mask"]


def _samples(given, model):
  """Samples of the sound that spans the frames; None if a rate is not known."""
  hz = given.get("audio_hz")
  if hz is None and hasattr(model, "front_end"):
    hz = logmel.front_end(model.front_end).rate_hz
  seconds = given.get("audio_s")
  if not seconds and given.get("frame_rate") and given.get("num_frames"):
    seconds = given["num_frames"] / given["frame_rate"]
  return round(seconds * hz) if hz and seconds else None


def _narrated_clips(given, model):
  keys, fields, text = [], given["fields"], given["text"]
  if "video" in fields:
    keys += ["video_frames", "video_mask", "video_times"]
  if "audio" in fields:
    keys += ["audio_samples", "audio_mask"]
  if text != "none":
    keys += _words({"narration": "narration", "caption": "text"}[text])
  keys += LABELS if "label" in fields else ()
  side = dict.fromkeys("HW", given["size"])
  sizes = dict(T=given["num_frames"], K=given["candidates"], L=given["max_words"])
  return keys, sizes | side | {"S": _samples(given, model)}


def _sampled_clips(given, model):
  scenes, keys = given["scene_s"] > 0, ["video_frames", "video_mask", "video_times"]
  said = given["candidates"] or (2 if scenes else None)
  if given["text"] != "none":
    keys += _words("narration" if said else "text")
  many = 2 if scenes else given["clips"] if given["clips"] > 1 else None
  sizes = dict(T=given["num_frames"], L=given["max_words"], N=many, K=said)
  return keys, sizes | dict.fromkeys("HW", given["size"])


def _clip_features(given, model):
  unit = given["unit"]
  length = {"pairs": given["pairs"], "clip": 1, "seconds": given["max_seconds"]}[unit]
  keys = ["clips_features", "clips_mask", "clips_times"]
  keys += _words("narration") if unit == "pairs" else []
  keys += _words("text") if given["text"] == "caption" else []
  return keys, dict(T=length, K=length, L=given["max_words"])


def _moments(given, model):
  if given["unit"] != "video" or given["labels"] == "none":
    raise UserError("input: of task moments only videos with labels are counted here.")
  keys = ["clips_features", "clips_mask", "clips_times"]
  if given["labels"] == "classes":
    return [*keys, "label"], dict(T=given["max_clips"], classes=given["max_clips"])
  keys += ["label_task", *LABEL_AXES, *(_words("choice") if given["names"] else ())]
  return keys, dict(T=given["max_clips"], K=STEPS, L=given["max_words"])


def _video_segments(given, model):
  fields, keys = given["fields"], ["clips_mask", "clips_times"]
  keys += ["clips_tokens"] if "tokens" in fields else []
  keys += ["clips_features"] if "features" in fields else []
  keys += _words("text") if "text" in fields else []
  keys += LABELS if "label" in fields else ()
  return keys, dict(T=given["max_clips"], L=given["max_words"])


def _sentences(given, model):
  more = ["text_types", "match"] if given["unit"] == "pairs" else []
  return _words("text") + more, dict(L=given["max_words"])


def _sounds(given, model):
  # Numbers that the index may have as well, of a speaker say, are a few bytes a row.
  rate = logmel.front_end(model.front_end).rate_hz
  keys = ["audio_samples", "audio_mask", "label"]
  keys += _words("text") if given["text"] == "caption" else []
  sizes = dict(S=max(1, round(given["seconds"] * rate)), L=given["max_words"])
  return keys, sizes | {"labels": given["num_classes"] or None}


def _regions(given, stream):
  names = ("features", "boxes", "mask", "objects", "conf")
  asked = (f for f in given["fields"] if f.startswith("regions_"))
  every = dict.fromkeys([*names, *(f.removeprefix("regions_") for f in asked)])
  return [f"{stream}_{name}" for name in every]


def _text_regions(given, model):
  heads = set(model.heads)
  keys = [*_words("text"), "text_types", *_regions(given, "regions")]
  sizes = dict(L=given["max_tokens"] + 2, R=given["max_regions"])
  if given["tags"] == "joined":
    sizes["L"] += given["max_tags"] + 1
  two = bool(heads & {"pair", "triplet", "paired_attn"})
  keys += _regions(given, "regions2") if two else []
  if not two or given["pair"] == "joint":
    keys.append("fuse_index")
  else:  # the length of the ladder: the text with each of the two
    sizes["M"] = 2 * (sizes["L"] + sizes["R"])
  if heads & {"itm", "mlm", "mrfr", "mrc", "rank"}:
    keys.append("match")
  if "vqa" in heads:
    keys, sizes = [*keys, "answers"], sizes | {"answers": model.num_answers}
  if two or heads & {"refer", "refer_mlp"}:
    keys.append("label")
  if heads & {"refer", "refer_mlp"}:
    keys.append("label_box")
  return keys, sizes


def _vcr(given, model):
  keys = [*_words("text"), "text_types", *_regions(given, "regions"), "fuse_index"]
  keys += ["label", "label_choice", "label_answer"]
  return keys, dict(L=given["max_tokens"], R=given["max_regions"])
