"""Byte pair encoding by the book: words by a scanner, merges by trying all pairs."""

import itertools
import unicodedata

SHORT = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")

# What a caption may hold in any language, and what may break a tokeniser.
HARD = (
  "",
  "   ",
  "Hello world",
  "A photo of a cat, isn't it?  She'LL be THERE'S.",
  " two  spaces   three\ttab\n\nnew lines \n x",
  "trailing  ",
  "1234567890 3.14 1,000 ١٢٣ Ⅷ ½ ²",
  "日本語のテキスト、漢字と仮名。한국어 中文字符",
  "مرحبا بالعالم ؟",
  "नमस्ते दुनिया",
  "ไทย Ελληνικά Русский עברית",
  "Ångström cafe\u0301 na\u00efve e\u0300\u0301 İstanbul ß ẞ ǅ",
  "👩‍👩‍👧‍👦 🤖!! 👍🏽 🇫🇷",
  "\u200b\u202eabc\u2069 zero\u200dwidth\ufeff",
  "nb\u00a0sp\u3000wide\u2028line\x85next",
  "nul\x00in\x01side\x7f\x1c",
  "[MASK] [CLS] [PAD] <s></s><pad><mask><unk> <|endoftext|> <|startoftext|>",
  "##ing \u2581under _under_ </w> Ġ",
  "x" * 2000,
  "aaa aaaa abababab " * 3,
  "donaudampfschifffahrtsgesellschaftskapitän",
  "-->>!!!???...;;; $%&/()=",
)


def _kind(c):
  if c in "\t\n\v\f\r \x85" or unicodedata.category(c)[0] == "Z":
    return "space"
  return {"L": "letter", "N": "number"}.get(unicodedata.category(c)[0], "other")


def _run(text, at, kind):
  while at < len(text) and _kind(text[at]) == kind:
    at += 1
  return at


def gpt2_words(text):
  """The words of GPT-2's expression."""
  words, at = [], 0
  while at < len(text):
    short = next((s for s in SHORT if text.startswith(s, at)), None)
    start = at + (text[at] == " ")
    if short:
      end = at + len(short)
    elif start < len(text) and _kind(text[start]) != "space":
      end = _run(text, start, _kind(text[start]))
    else:
      end = _run(text, at, "space")
      if end < len(text) and end - at > 1:
        end -= 1  # the last one is left to what follows
    words.append(text[at:end])
    at = end
  return words


def clip_words(text):
  """The words of CLIP's expression: as GPT-2's, without spaces, digits one by one."""
  words, at = [], 0
  while at < len(text):
    short = next((s for s in SHORT if text.startswith(s, at)), None)
    kind = _kind(text[at])
    end = _run(text, at, kind)
    if short:
      end = at + len(short)
    elif kind == "number":
      end = at + 1
    if kind != "space":
      words.append(text[at:end])
    at = end
  return words


def visible():
  shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
  hidden = [b for b in range(256) if b not in shown]
  return {
    **{b: chr(b) for b in shown},
    **{b: chr(256 + i) for i, b in enumerate(hidden)},
  }


def merge(pieces, ranks):
  """Merges the pair of lowest rank, all its places, until no pair has one."""
  pieces = list(pieces)
  while True:
    pairs = [p for p in itertools.pairwise(pieces) if p in ranks]
    if not pairs:
      return pieces
    best, out, i = min(pairs, key=ranks.get), [], 0
    while i < len(pieces):
      both = tuple(pieces[i : i + 2]) == best
      out.append("".join(best) if both else pieces[i])
      i += 2 if both else 1
    pieces = out


def encode(text, ids, ranks, *, words, suffix=""):
  """(ids, word ids)."""
  letters, out, places = visible(), [], []
  for place, word in enumerate(words(text)):
    pieces = [letters[b] for b in word.encode()]
    pieces[-1] += suffix
    found = [ids[p] for p in merge(pieces, ranks)]
    out += found
    places += [place] * len(found)
  return out, places
