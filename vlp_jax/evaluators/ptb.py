r"""Penn Treebank tokens of captions, as the COCO caption tools have them, without Java.

Those tools run `edu.stanford.nlp.process.PTBTokenizer -preserveLines -lowerCase` (of
CoreNLP 3.4.1) and drop punctuation. This is a lexer of the same token classes: at each
place the longest match wins, what must follow counted, and among equals the first one.
It was held against that program over 34,816 lines of captions and prose: no difference,
and over thousands of lines made of odd words, signs and numbers. Three things differ:
the program sees across the end of a line (the "no." of a caption keeps its period if
the next caption begins with a digit), here each caption stands alone; web addresses and
quotes glued to other words may part elsewhere; and so may words of Indic scripts, whose
vowel signs the program knows.
"""

import re
from collections.abc import Callable

# Dropped behind the tokeniser. It lowers first, so that "-lrb-" survives "-LRB-".
PUNCTUATION = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!"}
PUNCTUATION |= {",", ":", "-", "--", "...", ";"}

# Abbreviations whose period belongs to them: in any case, with a capital, by a number.
_ABBREVIATIONS = """adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave
bancorp bhd bldg blvd brig bros calif capt cf cie cmdr co col colo comdr conn corp cos
cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen gov govs
hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs
mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn
pfc ph plc ppte ppty pres prof profs pte ptes pty ptys pvt rd rep reps rev rt sen sens
sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues
univ va vs vt wed wis wisc wm wyo"""
_CAPITALISED = "Ark Az Del Ill La Mass Miss Ore Pa Tex Wash"
_NUMBERED = "art ca fig figs no nos op pp prop"
# A letter and period before one of these words, with a capital, end a sentence.
_STARTS = """A About According Additionally After An As At But Earlier He Her Here
However If In It Last Many More Now Once One Other Our She Since So Some Such That The
Their Then There These They This We When While What Yet You"""

# Digits of other kinds (fractions, superscripts, circled) are no letters here.
_DIGITS = "²³¹¼-¾⁰-₉⅐-↏①-⓿❶-➓"
_L = rf"(?:[^\W\d_{_DIGITS}]|[\xad\u0300-\u036f]|&[aeiouAEIOU](?:acute|grave|uml);)"
_A = rf"(?:{_L}|\d)"
_APOS = r"(?:['’\x92]|&apos;)"
_ANY_APOS = r"(?:['’\x92`‘‛\x91]|&apos;)"
_NUM = r"(?:\d*(?:[.:,]\d+)+|\d+)"
_WORD = rf"{_L}{_A}*(?:[.!?]{_L}{_A}*)*"
_PLAIN_A = rf"[^\W_{_DIGITS}]"
_PART = rf"(?:[dDoOlL]{_ANY_APOS}{_PLAIN_A})?{_PLAIN_A}+"
_HYPHENED = r"[A-Za-z0-9][A-Za-z0-9.,\xad]*"
_HYPHENED += r"(?:-(?:[A-Za-z](?:\.[A-Za-z])+\.|[A-Za-z0-9\xad]+))+"
_SLASH = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_HOST = r"[^\s\"`'<>|!?(){}$,-_]+\."  # the range leaves small letters and few signs
_TAIL = r"[^\s\"<>|()]*[^\s\"<>|.!?(){},-]"
_PHONE = (
  r"(?:\(\d{2,3}\) ?|(?:\+\+?)?(?:\d{2,4}[- ])?\d{2,4}[- ])\d{3,4}[- ]?\d{3,5}"
  r"|(?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}"
)
_CHAT = r"[<>]?[:;=]['\-o*]?[()DPdpO\\@|\[\]{]"
_FACE = r"[\-^x=~<>']_[\-^x=~<>']|\([\-^x=~<>'][_.]?[\-^x=~<>']\)"
_NAME = r"[A-Za-z][\w:.\-]*"
_TAG = rf"</?{_NAME}(?: +{_NAME}(?: *= *(?:\"[^\"]*\"|'[^']*'))?)* */?>"
_TAG += r"|<[!?][A-Za-z\-][^>]*>"
# Signs of the general blocks, and all emoji, that begin no token: they are dropped.
_NO_TOKEN = (
  "\x00-\x08\x0e-\x1b\x7f\x81-\x90\x95\x98-\x9f\u200b-\u2012\u2024\u2025\u2027\u202a-"
  "\u202e\u203c\u203d\u2043\u2045-\u206f\u20a1-\u20a3\u20a5-\u20ab\u20ad-\u20ff\u2150-"
  "\u2152\u215f-\u2182\u2185-\u218f\u2e30-\u2fff\u3003\u3004\u3007-\u3011\u3013-\u3030"
  "\ue000-\uf8ff\ufdfc-\ufe6f\ufefd-\uff00\uffe2-\uffe4\uffe7-\uffff\U00010000-\U0010ffff"
)

_AS_ONE = {"(": "-LRB-", ")": "-RRB-", "[": "-LSB-", "]": "-RSB-"}
_AS_ONE |= {"{": "-LCB-", "}": "-RCB-"}
_AS_ONE |= {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&quot;": "''", '"': "''"}
_AS_ONE |= {"£": "#", "¢": "cents"} | dict.fromkeys("€₠¤\x80", "$")
_AS_ONE |= {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
_QUOTES = dict.fromkeys("“«\x93", "``") | dict.fromkeys("”»\x94", "''")
_QUOTES |= dict.fromkeys("‘‛‹`\x91", "`") | dict.fromkeys("’›'\x92", "'")


def _any(words: str) -> str:
  return "|".join(sorted(words.split(), key=len, reverse=True))


def _straight(text: str) -> list[str]:
  return [re.sub(_APOS, "'", text)]


def _replaced(text: str) -> list[str]:
  return [_AS_ONE.get(text, text)]


def _hard(text: str) -> list[str]:
  """One token with no-break spaces inside, as the program prints it."""
  return ["".join(_AS_ONE.get(c, c) for c in text.replace(" ", "\u00a0"))]


def _smile(text: str) -> list[str]:
  return ["".join(_AS_ONE.get(c, c) if c in "()" else c for c in text)]


def _quoted(text: str) -> list[str]:
  # Which way a straight quote points is of no matter: both ways are dropped.
  return ["".join(_QUOTES.get(c, c) for c in text)]


def _cut(at: int) -> Callable[[str], list[str]]:
  return lambda text: [*_straight(text[:at]), text[at:]]


def _dash(text: str) -> list[str]:
  return ["--" if len(text) in (3, 4) or text[0] != "-" else text]


# (what the token is, what must follow, what becomes of it); without a third the text.
_CLASSES = (
  (_TAG, "", lambda x: [x.replace(" ", "\u00a0")]),
  (r"(?i:cannot|gonna|gotta|lemme|gimme|wanna)", "", _cut(3)),
  (r"'[tT]", r"(?i:was|is)"),
  (r"[A-Za-z\xad]*[A-MO-Za-mo-z]", rf"[nN]{_ANY_APOS}[tT]"),
  (rf"(?i:n{_ANY_APOS}t)", "", lambda x: [re.sub("[‘‛\x91]", "`", *_straight(x))]),
  (_WORD, rf"{_APOS}(?i:[msd]|re|ve|ll)"),
  (rf"{_APOS}(?i:[msd]|re|ve|ll)", r"[^A-Za-z]|$", _straight),
  (_WORD, ""),
  (rf"{_PART}(?:[-_‐‑]{_PART})*", ""),
  (
    rf"{_APOS}[nN](?:{_APOS}|(?![A-Za-z]))|[lLdDjJ]{_APOS}|(?i:dunkin|somethin|ol){_APOS}"
    rf"|(?i:{_APOS}em|{_APOS}cause|{_APOS}till?|cont'd\.?|nor'easter|c'mon|e'er)"
    rf"|{_APOS}[2-9]0s|(?i:s'mores|ev'ry|li'l|nat'l|cap{_APOS}n|c{_APOS}est)"
    rf"|[A-HJ-XZn]{_ANY_APOS}{_L}{{2,}}|{_L}+[aeiouyAEIOUY]{_ANY_APOS}[aeiouA-Z]{_L}*",
    "",
  ),
  (rf"[yY]{_APOS}", _L),
  (rf"{_APOS}\d\d", r"\s|$"),
  (_HYPHENED, ""),
  (r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+", "", lambda x: [x.replace("&amp;", "&")]),
  (rf"{_SLASH}(?:\\?/{_SLASH}){{1,2}}", ""),
  (r"[Cc]\+\+|[CcFf]#", ""),
  (rf"[-+]?{_NUM}", ""),
  (r"\d+(?:\.(?:\d+|[xX]))*\.[xX]", r"[\s.,?!]|$"),
  (r"(?:\d{1,4}[- ])?\d{1,4}(?:\\?/|⁄)\d{1,4}", "", _hard),
  (_PHONE, "", _hard),
  (r"[A-Z]*\$|#", ""),
  (r"#" + _L + "+", ""),
  (r"@[A-Za-z_]\w*", ""),
  (rf"https?://{_TAIL}", ""),
  (
    rf"(?:www\.(?:{_HOST})+[a-zA-Z]{{2,4}}|(?:{_HOST})+(?:com|net|org|edu))(?:/{_TAIL})?",
    "",
  ),
  (
    r"(?:&lt;|<)?[A-Za-z0-9][^\s\"<>|(){}]*"
    r"@(?:[^\s\"<>|(){}.]+\.)*[^\s\"<>|(){}.]+(?:&gt;|>)?",
    "",
  ),
  (
    rf"[A-Za-z]\.(?=\s+(?:{_any(_STARTS)}|{_any(_STARTS.upper())})(?:\s|$))",
    "",
    lambda x: [x[0], "."],
  ),
  (r"[A-Za-z]\.", ""),
  (r"[A-Za-z](?:\.[A-Za-z])+\.|(?:Ph|Ed)\.D\.", ""),
  (rf"(?i:{_any(_ABBREVIATIONS)})\.", ""),
  ("(?:" + "|".join(f"{w[0]}(?i:{w[1:]})" for w in _CAPITALISED.split()) + r")\.", ""),
  (rf"(?i:{_any(_NUMBERED)})\.", r"\s?\d"),
  (rf"(?:{_WORD}|{_HYPHENED})\.", "[,;:]"),
  (r"-(?i:[LR][RCS]B)-|(?:pro|anti)-|S&P-500|S&Ls", ""),
  (_CHAT, r"[^A-Za-z0-9]|$", _smile),
  (_FACE, "", _smile),
  (r"\.{3,5}|(?:\. ){2,4}\.|…", "", lambda x: ["..."]),
  (r"-+|[–—―\x96\x97]", "", _dash),
  (r"[?!]+|@+|_+|\*+|#+", ""),
  (r"<<|>>", ""),
  (r"&(?:lt|gt|amp|quot);", "", _replaced),
  (r"&\#\d+;|&(?:mdash|ndash);", "", lambda x: ["--" if "dash" in x else x]),
  (
    rf"{_APOS}|''|[`‘’“”‹›«»\x91-\x94]{{1,2}}",
    "",
    lambda x: _quoted(x.replace("&apos;", "'")),
  ),
  (f"[{_NO_TOKEN}]", "", lambda x: []),
  (r"[^\s]", "", _replaced),
)
_CLASSES = [
  (re.compile(f"({c[0]})(?=({c[1]}))"), c[2] if len(c) > 2 else None) for c in _CLASSES
]
# The usual case, read at once: a word of two letters or more, perhaps before a stop.
_PLAIN = re.compile(r"([A-Za-z]{2,})([.,]?)(?!\S)")
_SPECIAL = {"cannot", "gonna", "gotta", "lemme", "gimme", "wanna"}
_DOTTED = {*_ABBREVIATIONS.split(), *_CAPITALISED.lower().split(), *_NUMBERED.split()}
_BLANK = re.compile(r"[\s\u00a0\u200b\ufeff]|&nbsp;")


def lex(text: str) -> list[str]:
  """All tokens of one line, with case and punctuation; the text has no newline."""
  text, tokens, at = _BLANK.sub(" ", text), [], 0
  while at < len(text):
    if text[at] == " ":
      at += 1
      continue
    plain = _PLAIN.match(text, at)
    word = plain[1].lower() if plain else ""
    if plain and word not in _SPECIAL and not (plain[2] == "." and word in _DOTTED):
      tokens += [plain[1], plain[2]] if plain[2] else [plain[1]]
      at = plain.end()
      continue
    found, size, make = "", 0, None
    for pattern, then in _CLASSES:
      match = pattern.match(text, at)
      if match and len(match[1]) + len(match[2]) > size:
        found, size, make = match[1], len(match[1]) + len(match[2]), then
    at += len(found)
    tokens += [t.replace("\xad", "") for t in (make(found) if make else [found])]
  return tokens


def tokens(caption: str) -> list[str]:
  """Lower-case tokens of a caption, no punctuation, as the COCO tools score them."""
  line = caption.replace("\n", " ").replace("\r", " ")
  return [t for t in (t.lower() for t in lex(line)) if t and t not in PUNCTUATION]
