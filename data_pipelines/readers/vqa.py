"""Questions about images with soft answers: VQA v2, GQA, Visual Genome QA.

Each function takes the path of a file and yields `example.Example`s; `answers` are
(answer, score), empty where none are told (test sets).

  v2      v2_OpenEnded_mscoco_train2014_questions.json {questions: [{question_id,
          image_id, question}]}; answers of v2_mscoco_train2014_annotations.json beside
          it {annotations: [{question_id, answers: [{answer}] * 10}]}
  gqa     train_balanced_questions.json {id: {imageId, question, answer, isBalanced}}
  vg      question_answers.json [{id, qas: [{qa_id, image_id, question, answer}]}]
  lxmert  train.json [{img_id, question_id, sent, label: {answer: score}}]
"""

import pathlib
from collections.abc import Iterator

from data_pipelines.readers import tables, vqa_answers
from data_pipelines.readers.example import WRONG, Example, clean, listed, mistake

FORMATS = ("v2", "gqa", "vg", "lxmert")


def annotations_of(path) -> pathlib.Path:
  """Where the answers of a questions file of VQA v2 lie."""
  path = pathlib.Path(path)
  name = path.name.replace("OpenEnded_", "").replace("questions", "annotations")
  return path.with_name(name)


def v2(path) -> Iterator[Example]:
  """VQA v1 and v2."""
  at, scores = annotations_of(path), {}
  if at.is_file() and at != pathlib.Path(path):
    try:
      for row in tables.value(at)["annotations"]:
        given = [a["answer"] for a in row["answers"]]
        scores[row["question_id"]] = tuple(vqa_answers.soft(given).items())
    except WRONG as error:
      raise mistake(at, "annotations", error) from None
  try:
    rows = tables.value(path)["questions"]
  except WRONG as error:
    raise mistake(path, "questions", error) from None
  for number, row in enumerate(listed(rows, path, "questions")):
    try:
      key, name = row["question_id"], str(row["image_id"])
      answers = scores.get(key, ())
      yield Example(str(key), (name,), clean(row["question"]), answers=answers)
    except WRONG as error:
      raise mistake(path, f"question {number}", error) from None


def gqa(path) -> Iterator[Example]:
  """GQA; the answer counts 1."""
  for key, row in tables.items(path):
    try:
      answer = row.get("answer")
      answers = () if answer is None else ((str(answer), 1.0),)
      more = {"balanced": bool(row.get("isBalanced", True))}
      name = str(row["imageId"])
      yield Example(key, (name,), clean(row["question"]), answers=answers, more=more)
    except WRONG as error:
      raise mistake(path, f"question {key}", error) from None


def vg(path) -> Iterator[Example]:
  """Visual Genome QA; the answer in LXMERT's spelling counts 1."""
  for number, row in enumerate(listed(tables.value(path), path, "images")):
    try:
      for qa in row["qas"]:
        name = str(qa.get("image_id", row.get("id")))
        answers = ((vqa_answers.lxmert(qa["answer"]), 1.0),)
        yield Example(str(qa["qa_id"]), (name,), clean(qa["question"]), answers=answers)
    except WRONG as error:
      raise mistake(path, f"image {number}", error) from None


def lxmert(path) -> Iterator[Example]:
  """LXMERT's question files, answers already in its spelling."""
  for number, row in enumerate(listed(tables.value(path), path, "rows")):
    try:
      scores = row.get("label") or {}
      answers = tuple((str(a), float(s)) for a, s in scores.items())
      key, name = str(row.get("question_id", number)), str(row["img_id"])
      yield Example(key, (name,), clean(row["sent"]), answers=answers)
    except WRONG as error:
      raise mistake(path, f"row {number}", error) from None
