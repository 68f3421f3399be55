"""SentencePiece models: T5's, XLM-R's, or learned ones (arXiv 1808.06226).

The file brings its own normaliser and all ids. `layout="fairseq"` moves them as XLM-R
does: <s> 0, <pad> 1, </s> 2, <unk> 3, every other piece one up, <mask> at the end.
`extra_ids` appends T5's sentinels; <extra_id_0> is the last id. A mark that the file
declares to be cut out of text ("user defined", in angles or brackets) is declared to be
a control mark instead, so that no text makes it.

Words are what white space parts; `word_ids` counts them. Languages that write without
spaces have one word a sentence.
"""

import functools
import hashlib
import io
from collections.abc import Iterable, Sequence

import sentencepiece
from google.protobuf import message
from sentencepiece import sentencepiece_model_pb2 as proto

from data_pipelines.vocabularies import files
from vlp_jax import vocab
from vlp_jax.errors import UserError

KIND = "sentencepiece"
SPACE = "▁"
LAYOUTS = ("", "fairseq")
_Piece = proto.ModelProto.SentencePiece
_MASKS = ("<mask>", "[MASK]")


def _marked(piece: str) -> bool:
  return len(piece) > 2 and piece[0] + piece[-1] in ("<>", "[]")


def _without_marks(model: bytes, what: str) -> tuple[bytes, list[tuple[str, int]]]:
  """(model that cuts no mark out of text, [(piece, type)])."""
  parsed = proto.ModelProto()
  try:
    parsed.ParseFromString(model)
  except message.DecodeError:
    raise UserError(f"{what} is no SentencePiece model.") from None
  if not parsed.pieces:
    raise UserError(f"{what} is a SentencePiece model without pieces.")
  for piece in parsed.pieces:
    if piece.type == _Piece.USER_DEFINED and _marked(piece.piece):
      piece.type = _Piece.CONTROL
  pieces = [(piece.piece, piece.type) for piece in parsed.pieces]
  files.check([piece for piece, _ in pieces], what)
  return parsed.SerializeToString(deterministic=True), pieces


class Vocabulary:
  """A serialised SentencePiece model.

  Args:
    model: bytes of a `.model` file.
    layout: "" for the ids of the file, or "fairseq".
    extra_ids: number of sentinels behind the pieces.
    what: names the file in errors.
  """

  kind, cased = KIND, True  # what case means is in the model's own normaliser

  def __init__(
    self, model: bytes, *, layout: str = "", extra_ids: int = 0, what: str = "the model"
  ):
    if layout not in LAYOUTS or not 0 <= extra_ids <= 10_000:
      raise UserError(
        f"vocab.layout={layout!r}, extra_ids={extra_ids}: layouts are '' and "
        "'fairseq', extra ids 0 to 10000."
      )
    self._saved, self.layout = model, layout
    self.model, pieces = _without_marks(model, what)
    try:
      self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model)
    except (RuntimeError, OSError) as error:
      reason = " ".join(str(error).split())
      raise UserError(f"{what} is a damaged SentencePiece model: {reason}.") from None
    own = [p for p, _ in pieces]
    control = [i for i, (_, kind) in enumerate(pieces) if kind == _Piece.CONTROL]
    unk = self._processor.unk_id()
    if layout == "fairseq":
      if own[:3] != ["<unk>", "<s>", "</s>"]:
        raise UserError(f"{what} begins {own[:3]}; fairseq's: <unk>, <s>, </s>.")
      tokens = ["<s>", "<pad>", "</s>", "<unk>", *own[3:], "<mask>"]
      # Of each id of the file; a control piece of the file never comes out of text.
      self.ids = [3, 0, 2, *range(4, len(own) + 1)]
      control = [0, 1, 2, *(i + 1 for i in control if i > 2), len(own) + 1]
      unk = 3
    else:
      tokens, self.ids = own, None
    sentinels = [f"<extra_id_{extra_ids - 1 - i}>" for i in range(extra_ids)]
    control += range(len(tokens), len(tokens) + extra_ids)
    self.tokens = (*tokens, *sentinels)
    files.check(self.tokens, what)
    self.starts = [piece.startswith(SPACE) for piece in self.tokens]
    special = tuple(sorted({*control, unk}))
    found = {token: i for i, token in enumerate(self.tokens)}
    named = {
      "cls": found.get("<s>", found.get("[CLS]", -1)),
      "sep": found.get("</s>", found.get("[SEP]", -1)),
      "mask": next((found[m] for m in _MASKS if m in found), -1),
    }
    ends = [found.get("<pad>", found.get("[PAD]", -1)), named["sep"], unk]
    usual = sorted(set(range(len(self.tokens))) - set(special))
    if not usual:
      raise UserError(f"{what} has only special pieces.")
    model_digest = hashlib.sha256(self.model).hexdigest()
    self.digest = files.digest(
      KIND, True, self.tokens, layout=layout, model=model_digest
    )
    self._special = frozenset(special)
    self.spec = vocab.Vocab(
      size=len(self.tokens),
      pad_id=next(i for i in ends if i >= 0),
      unk_id=unk,
      **{f"{k}_id": i for k, i in named.items()},
      special_ids=special,
      valid_range=(usual[0], usual[-1] + 1),
      digest=self.digest,
    )

  def _laid(self, ids: list[int]) -> list[int]:
    return ids if self.ids is None else [self.ids[i] for i in ids]

  def encode(self, text: str) -> list[int]:
    """Ids of the text, without special pieces around it."""
    return self._laid(self._processor.encode(files.encodable(text)))

  def encode_all(self, texts: Iterable[str]) -> list[list[int]]:
    """`encode` of each text."""
    return [self.encode(text) for text in texts]

  def word_ids(self, text: str) -> list[int]:
    """For each id of `encode`, the number of its word in the text, from 0."""
    words, current = [], -1
    for i in self.encode(text):
      current = max(current + self.starts[i], 0)
      words.append(current)
    return words

  def decode(self, ids: Iterable[int]) -> str:
    """The text, normalised as the model does; no special pieces but the unknown."""
    kept = [i for i in map(int, ids) if i not in self._special or i == self.spec.unk_id]
    if self.ids is not None:
      back = {laid: i for i, laid in enumerate(self.ids)}
      kept = [back[i] for i in kept]
    return self._processor.decode(kept)

  def save(self, file) -> None:
    """Writes the `.model` file as it was read."""
    files.write_bytes(file, self._saved)


@functools.lru_cache(maxsize=8)
def _load(file, layout, extra_ids):
  model = files.read_bytes(file)
  return Vocabulary(model, layout=layout, extra_ids=extra_ids, what=str(file))


def load(file: str, layout: str = "", extra_ids: int = 0) -> Vocabulary:
  """The vocabulary of a `.model` file."""
  return _load(str(file), layout, extra_ids)


def learn(
  texts: Sequence[str],
  size: int = 8192,
  model_type: str = "unigram",
  coverage: float = 0.9995,
) -> Vocabulary:
  """Learns at most `size` pieces: <pad> </s> <unk> <s> <mask>, then those of the text.

  Args:
    texts: sentences, in any order.
    size: upper bound of V.
    model_type: "unigram" or "bpe".
    coverage: share of the characters that get a piece.
  """
  if model_type not in ("unigram", "bpe") or not 0.9 <= coverage <= 1:
    raise UserError(
      f"vocab.model_type={model_type!r}, coverage={coverage}: model types are unigram "
      "and bpe, coverage 0.9 to 1."
    )
  lines = [" ".join(files.encodable(text).split()) for text in texts]
  lines = sorted(line for line in lines if line)  # the order of texts changes nothing
  if not lines:
    raise UserError("no text to learn a sentencepiece vocabulary from: all are empty.")
  out = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=iter(lines),
      model_writer=out,
      model_type=model_type,
      vocab_size=size,
      hard_vocab_limit=False,
      character_coverage=coverage,
      max_sentence_length=max(map(len, (line.encode() for line in lines))) + 1,
      pad_id=0,
      eos_id=1,
      unk_id=2,
      bos_id=3,
      control_symbols=["<mask>"],
      shuffle_input_sentence=False,
      num_threads=1,  # sums in another order give other pieces
      minloglevel=3,
    )
  except (RuntimeError, OSError) as error:
    reason = " ".join(str(error).split())[-300:]
    raise UserError(f"no sentencepiece vocabulary of size {size}: {reason}") from None
  return Vocabulary(out.getvalue(), what="the learned model")
