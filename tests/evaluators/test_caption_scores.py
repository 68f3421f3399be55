"""Caption scores: published values, goldens, the tool's token table, loops."""

import collections
import csv
import gc
import json
import shutil
import warnings

import numpy as np
import pytest

from tests import helpers
from tests.reference import captions as reference
from vlp_jax.errors import UserError
from vlp_jax.evaluators import caption_scores, meteor, ptb

# Captions and what the COCO tools make of them (PTBTokenizer -preserveLines -lowerCase
# of CoreNLP 3.4.1, then without punctuation).
TABLE = """
don't can't won't I'm you're he'll they've it'd => \
do n't ca n't wo n't i 'm you 're he 'll they 've it 'd
cannot gotta wanna gimme lemme gonna => can not got ta wan na gim me lem me gon na
the dogs' toys and dog's toy => the dogs toys and dog 's toy
U.S. Mr. Smith vs. Dr. J. at 5 p.m. => u.s. mr. smith vs. dr. j. at 5 p.m.
3.5 cups, 1,000 grams and 1/2 tsp => 3.5 cups 1,000 grams and 1/2 tsp
$5.00 50% #1 @home a_b => $ 5.00 50 % # 1 @home a_b
well-cooked state-of-the-art --dash => well-cooked state-of-the-art dash
"quoted" 'single' `tick` => quoted single tick
(parens) [brackets] {braces} => \
-lrb- parens -rrb- -lsb- brackets -rsb- -lcb- braces -rcb-
wait... what?! no!! => wait what ?! no !!
salt & pepper; oil: 2 tbsp => salt & pepper oil 2 tbsp
12:30pm 10am 5ft => 12:30 pm 10am 5ft
200°F 1st 2nd => 200 ° f 1st 2nd
rock'n'roll 'n' 'em 'tis => rock 'n' roll 'n' 'em 't is
café “smart” ‘q’ — dash … => café smart q dash
½ cup £5 => 1/2 cup # 5
y'all o'clock / mother-in-law's => y' all o'clock / mother-in-law 's
ok :) <3 => ok :-rrb- < 3
+ - * = ~ ^ | => + * = ~ ^ |
Hello,world a,b => hello world a b
end. Next sentence starts => end next sentence starts
#hashtag @user => #hashtag @user
http://x.com/a?b=1 and a.b@c.com => http://x.com/a?b=1 and a.b@c.com
e.g. i.e. etc. / A.M. AM / No. 5 fig. 2 => e.g. i.e. etc. / a.m. am / no. 5 fig. 2
J. The J. Apple => j the j. apple
yes or no. Ph.D. AT&T U.S.-based => yes or no ph.d. at&t u.s.-based
apple., x wash. Wash. x => apple. x wash wash. x
'80s '90 5'10 6'2" 2-inch 1/2-inch => '80s '90 5 '10 6 2 2-inch 1/2-inch
a--b ----- naïve 中文 t-shirt. => a b ----- naïve 中文 t-shirt
<b>bold</b> C++ _x_ @@ ## => <b> bold </b> c++ _ x _ @@ ##
’tis ’twas 'tis 'twasn't ’tisn’t don‘t => tis twas 't is 't was n't tis n't do n`t
¥100 €5 ¤5 ₹500 ⅛ tsp ⅓ cup 5¢ => ¥ 100 $ 5 $ 5 500 ⅛ tsp 1/3 cup 5 cents
a#b a# g#m C# F# c#m #a#b => a #b a # g #m c# f# c# m #a #b
<a href=x> <br/> <a@b.com> >.< >_< => < a href = x > <br/> <a@b.com> > < >_<
Ⅳ a Ⅳ. ‐ a‐b ‑ ‼ 「x」 x❤️y 👍🏽 x❶y => a a‐b x x ❤ y x ❶ y
5.x 1.2.x 5.x, 5.xy v5.x 1/2x 2½ => 5.x 1.2.x 5.x 5 xy v5.x 1/2x 2 1/2
J. The. J. The x vs. J. He's => j. the j the x vs. j. he 's
""".replace("\\\n", "")
REFS = [
  ["Add the chopped onions to the pan.", "A man adds onions (red ones) to a hot pan!"],
  [
    "She can't find the 2-inch knife; it's gone...",
    "The woman doesn't know where the knife is.",
  ],
  [
    "mix flour, eggs and milk in a bowl",
    "whisk the eggs & flour together in a large bowl",
  ],
  [
    'Joey: "We don\'t share food!" -- he says',
    "Joey tells U.S. friends he won't share food.",
  ],
  ["gonna cut it into 1/2 inch pieces", "cut the dough into half-inch pieces"],
]
HYPS = [
  "add onions to the pan",
  "the woman can't find the knife",
  "mix the eggs and flour in a bowl bowl bowl",
  "Joey says he does not share food",
  "cut",
]
# pycocoevalcap 1.2 on these five.
WANT = dict(
  bleu1=0.6209938025,
  bleu2=0.4810197310,
  bleu3=0.3404896289,
  bleu4=0.2401773108,
  rouge_l=0.5685256799,
  cider_d=2.0264099768,
)
EACH = dict(
  rouge_l=[0.8090185676, 0.6112224449, 0.6802973978, 0.4889779559, 0.2531120332],
  cider_d=[3.0916892427, 2.5187999635, 2.0520754128, 1.8413462138, 0.6281390512],
)


@pytest.mark.parametrize("line", TABLE.strip().splitlines())
def test_tokens_are_those_of_the_coco_tools(line):
  caption, want = line.split(" => ")
  assert ptb.tokens(caption) == want.split()


def test_tokens_of_odd_captions():
  assert ptb.tokens("") == ptb.tokens(" \t ") == ptb.tokens("...") == []
  assert ptb.tokens("a\nman\r\nruns") == ["a", "man", "runs"]
  assert ptb.tokens("a\u00a0man\u200b 😀") == ["a", "man"]
  assert ptb.tokens("a\x93man\x94 \x9d\x01\ufffd") == ["a", "man"]
  assert ptb.tokens("<a href='x'>1 1/2") == ["<a\u00a0href='x'>", "1\u00a01/2"]
  assert ptb.tokens("x" * 100_000) == ["x" * 100_000]


def test_five_captions_score_as_published():
  found = caption_scores.score(REFS, HYPS)
  for name, want in WANT.items():
    assert found[name].value == pytest.approx(want, abs=1e-9)
  for name, want in EACH.items():
    np.testing.assert_allclose(found[name].each, want, atol=1e-9)
  np.testing.assert_allclose(
    found["bleu1"].each, [0.67032, 0.75148, 0.8, 0.6192, 0.00674], atol=1e-5
  )


def test_mixed_fractions_are_one_token_in_rouge_and_two_in_bleu_and_cider():
  """Values of pycocoevalcap 1.2 with its own tokeniser."""
  refs = [
    ["add 1 1/2 cups of flour to the bowl"],
    ["cut the onion into 1/2 inch pieces"],
    ["pour 2 1/2 cups water in"],
  ]
  hyps = ["add 1 1/2 cups of flour", "cut the onion", "pour 2 1/2 cups of water"]
  found = caption_scores.score(refs, hyps)
  want = dict(bleu1=0.58528, bleu4=0.49973, cider_d=5.10372, rouge_l=0.69938)
  for name, value in want.items():
    assert found[name].value == pytest.approx(value, abs=5e-6)


def test_two_blanks_part_an_empty_word_in_rouge():
  refs, hyps = [["a man  runs", "x"], ["b c"]], ["a man runs  fast", "b c d"]
  found = caption_scores.score(refs, hyps, tokenizer="whitespace")
  assert found["rouge_l"].value == pytest.approx(0.7551, abs=5e-5)
  assert found["bleu1"].value == pytest.approx(5 / 7, abs=1e-6)


def scenes():
  read = lambda f: json.loads(helpers.shared(f"data/metrics/{f}.json").read_text())
  refs, hyps = collections.defaultdict(list), collections.defaultdict(list)
  for row in read("abstract48S_refs"):
    refs[row["image_id"]].append(row["caption"])
  for row in read("abstract_candsB"):
    hyps[row["image_id"]].append(row["caption"])
  ids = helpers.golden("captions_abstract48S_B")[1]["ids"]
  return [refs[i] for i in ids], [hyps[i][0] for i in ids]


def test_goldens_of_two_hundred_scenes():
  refs, hyps = scenes()
  for name, keep in (("_5refs", 5), ("", 48)):
    golden = helpers.golden(f"captions_abstract48S_B{name}")[2]
    cut = [item[:keep] for item in refs]
    found = caption_scores.score(cut, hyps, tokenizer="alphanumeric")
    names = {"rougeL": "rouge_l", "cider": "cider_d"}
    for key in ("bleu1", "bleu2", "bleu3", "bleu4", "rougeL", "cider"):
      score = found[names.get(key, key)]
      assert score.value == pytest.approx(float(golden[key]), abs=1e-9)
      np.testing.assert_allclose(score.each, golden[f"{key}_each"], atol=1e-9)


def nlgeval():
  read = lambda f: (
    helpers.shared(f"data/metrics/nlgeval_{f}.txt").read_text().splitlines()
  )
  return list(zip(read("ref1"), read("ref2"), strict=True)), read("hyp")


def test_published_scores():
  found = caption_scores.score(*nlgeval(), tokenizer="whitespace")
  want = dict(bleu1=0.55, bleu2=0.428174, bleu3=0.284043, bleu4=0.201143)
  want |= dict(rouge_l=0.522104, cider_d=1.242192)
  for name, value in want.items():
    assert found[name].value == pytest.approx(value, abs=1e-6)
  refs, hyps = [["this is a test", "this is also a test"]], ["this is a good test"]
  found = caption_scores.score(refs, hyps)
  want = dict(bleu1=0.799999, bleu2=0.632455, bleu3=0.5108729, bleu4=0.0000903602)
  want |= dict(rouge_l=0.9070631, cider_d=0.0)
  for name, value in want.items():
    assert found[name].value == pytest.approx(value, abs=1e-6)


def test_scores_agree_with_loops():
  rng = np.random.default_rng(0)
  words = np.array(["a", "b", "c", "d"])
  draw = lambda low: list(words[rng.integers(0, 4, rng.integers(low, 8))])
  refs = [[draw(1) for _ in range(rng.integers(1, 4))] for _ in range(6)]
  hyps = [draw(1) for _ in range(6)]
  found = caption_scores.of_tokens(refs, hyps)
  for n in range(1, 5):
    want = reference.bleu(refs, hyps, n)
    assert found[f"bleu{n}"].value == pytest.approx(want, rel=1e-9)
  want = [reference.rouge_l(r, h) for r, h in zip(refs, hyps, strict=True)]
  np.testing.assert_allclose(found["rouge_l"].each, want, atol=1e-12)
  np.testing.assert_allclose(
    found["cider_d"].each, reference.cider_d(refs, hyps), atol=1e-9
  )


def test_empty_captions_and_missing_references():
  found = caption_scores.score([["a man runs"], ["a dog"]], ["", "a dog"])
  assert all(np.isfinite(s.value) for s in found.values())
  assert found["rouge_l"].each.tolist() == [0.0, 1.0]
  assert found["bleu4"].each[0] == 0
  with pytest.raises(ValueError, match="no reference"):
    caption_scores.score([["a"], []], ["a", "b"])
  with pytest.raises(UserError, match="'ptb'"):
    caption_scores.score([["a"]], ["a"], tokenizer="ptbb")


def test_what_is_no_caption_is_named():
  with pytest.raises(UserError, match=r"references\[0\] is 'a b'"):
    caption_scores.score(["a b"], ["a b"])
  with pytest.raises(UserError, match=r"references\[1\]\[2\] is None"):
    caption_scores.score([["a"], ["a", "b", None]], ["a", "b"])
  with pytest.raises(UserError, match=r"hypotheses\[1\] is None"):
    caption_scores.score([["a"], ["b"]], ["a", None])
  with pytest.raises(UserError, match="hypotheses is 'ab'"):
    caption_scores.score([["a"], ["b"]], "ab")
  with pytest.raises(ValueError, match=r"item 1 .* tokens"):
    caption_scores.of_tokens([[["a"]], [["b"]]], [["a"], "b"])
  with pytest.raises(ValueError, match=r"item 0 .* tokens"):
    caption_scores.of_tokens([["a b"]], [["a", "b"]])


def test_meteor_is_the_program_or_nothing(monkeypatch, tmp_path):
  monkeypatch.setenv("PATH", str(tmp_path))
  assert "java" in meteor.missing()
  with pytest.raises(UserError, match="no `java`"):
    meteor.score([[["a"]]], [["a"]])
  (tmp_path / "java").touch(mode=0o755)
  monkeypatch.setenv(meteor.JAR, str(tmp_path / "absent.jar"))
  assert "absent.jar" in meteor.missing()


@pytest.mark.slow
@pytest.mark.skipif(bool(meteor.missing()), reason=meteor.missing())
def test_published_meteor():
  tokens = lambda texts: caption_scores.tokenise(texts, "whitespace")
  refs, hyps = nlgeval()
  found = meteor.score([tokens(r) for r in refs], tokens(hyps))
  assert found.value == pytest.approx(0.295797, abs=1e-6)


def test_the_scorers_of_pycocoevalcap():
  bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
  cider = pytest.importorskip("pycocoevalcap.cider.cider")
  rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
  rng = np.random.default_rng(3)
  words = ["the", "a", "man", "dog", "runs", "on", ",", "1\u00a01/2", "", "x\ty"]
  draw = lambda: " ".join(rng.choice(words, rng.integers(1, 12)).tolist())
  refs = {i: [draw() for _ in range(1 + i % 3)] for i in range(60)}
  hyps = {i: [draw()] for i in range(60)}
  found = caption_scores.score(
    list(refs.values()), [h[0] for h in hyps.values()], tokenizer="whitespace"
  )
  value, each = bleu.Bleu(4).compute_score(refs, hyps, verbose=0)
  for n in range(4):
    assert found[f"bleu{n + 1}"].value == pytest.approx(value[n], abs=1e-12)
    np.testing.assert_allclose(found[f"bleu{n + 1}"].each, each[n], atol=1e-12)
  for name, scorer in (("rouge_l", rouge.Rouge()), ("cider_d", cider.Cider())):
    value, each = scorer.compute_score(refs, hyps)
    assert found[name].value == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(found[name].each, each, atol=1e-12)


@pytest.mark.slow
def test_the_program_itself_on_real_captions():
  """Over 1,500 real captions and the table, line by line."""
  ptbtokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer")
  if shutil.which("java") is None:
    pytest.skip("needs java")
  at = helpers.shared("data/annotations/youcook2/validation_youcook.csv")
  with at.open(newline="") as f:
    captions = [row["text"] for row in csv.DictReader(f)][:1000]
  at = helpers.shared("data/annotations/tvr/tvr_val_first2000.jsonl")
  captions += [json.loads(line)["desc"] for line in at.read_text().splitlines()[:500]]
  captions += [line.split(" => ")[0] for line in TABLE.strip().splitlines()]
  with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # it leaves a pipe open
    found = ptbtokenizer.PTBTokenizer().tokenize(
      {i: [{"caption": c}] for i, c in enumerate(captions)}
    )
    gc.collect()
  for i, caption in enumerate(captions):
    assert " ".join(ptb.tokens(caption)) == found[i][0], caption
