"""Generates the corpus: python -m data_pipelines.synthetic --out DIR --num_clips 600.

600 training clips of 4 s at 64 px, with 100 for validation, 300 for test and 60 longer
videos, take under a minute on two cores and 66 MB. Stopped, the same command continues:
finished clips are kept.
"""

import argparse
import sys

from data_pipelines.synthetic import clips, corpus


class _Parser(argparse.ArgumentParser):
  def error(self, message):  # one line; argparse would print the usage before it
    self.exit(2, f"synthetic: {message} (--help lists the options)\n")


def _parser() -> argparse.ArgumentParser:
  parser = _Parser(
    prog="python -m data_pipelines.synthetic",
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  add = parser.add_argument
  add("--out", required=True, metavar="DIR", help="where the files go")
  add("--num_clips", type=int, default=600, help="training clips (600)")
  add("--num_val", type=int, help="validation clips (a sixth of --num_clips)")
  add("--num_test", type=int, default=300, help="test clips, galleries of 100 (300)")
  add("--num_long", type=int, help="longer videos per split (a twentieth)")
  add("--seconds", type=float, default=4.0, help="length of a clip (4)")
  add("--size", type=int, default=64, help="shorter side in px (64)")
  told = "narrations come up to S seconds early or late (2)"
  add("--misalignment_s", type=float, default=2.0, metavar="S", help=told)
  add("--seed", type=int, default=0, help="everything follows from it (0)")
  add("--processes", type=int, help="default: one for each core")
  add("--no_audio", action="store_true", help="videos without sound")
  add("--no_vary", action="store_true", help="all clips square and at 12 Hz")
  add("--dry_run", action="store_true", help="print what would be made")
  return parser


def main(argv: list[str] | None = None) -> int:
  """Returns the exit code: 0 done, 2 bad arguments, 130 stopped from the keyboard."""
  args = vars(_parser().parse_args(argv))
  try:
    return _run(**args)
  except (ValueError, OSError) as e:
    print(f"synthetic: {e}", file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print("synthetic: stopped; the same command continues.", file=sys.stderr)
    return 130


def _run(*, out, no_audio, no_vary, dry_run, processes, **rest) -> int:
  counts = ("num_clips", "num_val", "num_test", "num_long")
  num = corpus.numbers(**{k: rest[k] for k in counts})
  look = {k: rest[k] for k in ("seed", "seconds", "size", "misalignment_s")}
  settings = clips.Settings(**look, vary=not no_vary, audio=not no_audio)
  corpus.check(num, settings)
  if dry_run:
    left = len(corpus.missing(out, num, settings.seed))
    mb = corpus.estimate_bytes(num, settings) / 1e6
    print(f"{sum(num.values())} videos, about {mb:.0f} MB in {out}; {left} to be made:")
    print(", ".join(f"{split} {count}" for split, count in num.items()))
    return 0
  look = rest | dict(vary=not no_vary, audio=not no_audio, processes=processes)
  made = corpus.generate(out, **look, progress=sys.stderr.isatty())["made"]
  total = sum(num.values())
  print(f"done: {made} made, {total - made} were there; {total} videos in {out}")
  return 0


if __name__ == "__main__":
  sys.exit(main())
