"""Questions, or premises, about images with soft answers: users' files joined.

The records of `prepare/image_text.py`, and
  context  answers/ids (int64 labels of answers.json), answers/scores (float32), both
           empty where no known answer is told
and `answers.json`, the answers in label order. The index has `num_answers`.
"""

import json
import pathlib

from data_pipelines.prepare import _join, _text_regions
from data_pipelines.readers import image_pairs, vqa, vqa_answers
from vlp_jax import errors

ENTAILMENT = "snli_ve"
ANSWERS = "answers.json"


def prepare(
  source,
  out,
  *,
  regions_format: str = "bua_tsv",
  regions: str = "",
  regions_options: str = "",
  questions_format: str = "v2",
  questions: str = "",
  answers_file: str = "",
  min_count: int = 9,
  exclude: str = "",
  vg_image_data: str = "",
  skip_missing: bool = False,
  max_regions: int = 100,
  min_regions: int = 10,
  conf_th: float = 0.0,
  probs: bool = False,
  objects_file: str = "",
  attributes_file: str = "",
  name: str = "vqa",
  licence: str = "see the source",
  limit: int = 0,
  vocab_size: int = 8192,
  cased: bool = False,
  vocab_file: str = "",
  processes: int = 1,
  dry_run: bool = False,
  quiet: bool = False,
) -> dict:
  """Joins region features with questions and answers by image.

    questions_format v2 (VQA), gqa, vg, lxmert, or snli_ve (answers contradiction,
                     entailment, neutral)
    questions        files: train=a.json,val=b.json
    answers_file     answers in label order, a JSON list or an object of labels, as
                     LXMERT's trainval_label2ans.json; else learned from the training
                     questions
    min_count        occurrences that an answer needs to become a label
    probs            class distributions of the regions

  The other options are those of `prepare image_text`.

  Returns: dataset_info, or the estimate of a dry run.
  """
  module = _join.module_of(questions_format, {"vqa": vqa, "pairs": _Entailment})
  names = _join.class_names(objects_file, attributes_file)
  feed = _join.sources(source, regions, regions_format, regions_options, objects_file)
  told = _join.annotations(source, questions, module, questions_format, limit=limit)
  labels = _labels(told, questions_format, answers_file, min_count)
  number = {answer: i for i, answer in enumerate(labels)}

  def add(e):
    found = [[number[a], s] for a, s in e.answers if a in number]
    return {"answers": found}

  without = _join.held_out(source, exclude, vg_image_data)
  splits, lost = _join.join(
    told, feed.places(), add, without=without, skip_missing=skip_missing
  )
  rule = _text_regions.Rule(
    max_regions,
    min(min_regions, max_regions),
    conf_th,
    probs,
    tuple(names.get("objects", ()))[1:],
  )
  written = _text_regions.write(
    out,
    splits,
    feed,
    rule,
    columns=("num_answers",),
    settings={
      "dataset": "vqa",
      "questions_format": questions_format,
      "limit": limit,
    },
    info={
      "name": name,
      "licence": licence,
      "classes": names,
      "left_out": lost,
      "num_answers": len(labels),
    },
    vocab={"vocab_file": vocab_file, "vocab_size": vocab_size, "cased": cased},
    engine={"processes": processes, "dry_run": dry_run, "quiet": quiet},
  )
  if not dry_run:
    text = json.dumps(labels, ensure_ascii=False, indent=0)
    (pathlib.Path(out) / ANSWERS).write_text(f"{text}\n", encoding="utf-8")
  return written


class _Entailment:
  """SNLI-VE as questions with three answers."""

  FORMATS = (ENTAILMENT,)

  @staticmethod
  def snli_ve(path):
    for e in image_pairs.snli_ve(path):
      yield e._replace(answers=((image_pairs.ENTAILMENT[e.label], 1.0),))


def _labels(told, questions_format, answers_file, min_count) -> list[str]:
  if questions_format == ENTAILMENT:
    return list(image_pairs.ENTAILMENT)
  if answers_file:
    return vqa_answers.labels(answers_file)
  best = [
    max(e.answers, key=lambda pair: pair[1])[0]
    for split, rows in told.items()
    if split.startswith("train")
    for e in rows
    if e.answers
  ]
  labels = vqa_answers.frequent(best, min_count)
  if not labels:
    raise errors.UserError(
      f"no answer of {len(best)} training questions occurs {min_count} times; give "
      "--answers_file or a lower --min_count."
    )
  return labels
