"""What the experiments on generated narrated clips start from; see `launch.narrated`.

Everything lies under one directory and is made once: `<m>s/` clips whose narrations
miss by up to m seconds, `long/` videos of several actions, `s3d/` a video network
trained by MIL-NCE, `features/` what it makes of the clips, `tree.npz` of clusters of
these, `wordpiece.txt`; `many/` more clips, `short/` features of their short windows.
"""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

from launch import command
from launch import sweep as sweeping
from vlp_jax import jsonl, sweep, workdir

MOST, MANY = 2_400, 9_600  # clips of training
NUM_LONG = 60  # videos of three to five actions
LOOK = dict(size=32, audio=False)


def clips(
  root: pathlib.Path, misalignment_s: int, num: int = MOST, *, name: str = ""
) -> pathlib.Path:
  """Shards of generated clips. The first ones are the same for any number."""
  from data_pipelines.prepare import narrated
  from data_pipelines.synthetic import corpus

  at, miss = root / (name or f"{misalignment_s}s"), dict(misalignment_s=misalignment_s)
  corpus.generate(
    at / "clips", num_clips=num, num_long=0, **LOOK, **miss, progress=True
  )
  narrated.prepare(at / "clips", at / "shards", rate_hz=10, **LOOK)
  return at / "shards"


def videos(root: pathlib.Path) -> pathlib.Path:
  """Shards of longer videos with the steps of `synthetic.crosstask`."""
  from data_pipelines.prepare import clips as prepare
  from data_pipelines.synthetic import corpus, crosstask

  at, sizes = root / "long", dict(num_clips=1, num_val=0, num_test=0)
  corpus.generate(at / "clips", **sizes, num_long=NUM_LONG, **LOOK, progress=True)
  crosstask.write(at / "clips", at / "steps")
  given = dict(format="crosstask", videos=str(at / "clips" / "videos" / "test_long"))
  prepare.prepare(at / "steps", at / "shards", **given, rate_hz=10, clip_s=0, **LOOK)
  return at / "shards"


def words(root: pathlib.Path) -> pathlib.Path:
  """WordPieces of all that is said and written of the training clips."""
  from data_pipelines import vocabularies

  out, texts = root / "wordpiece.txt", []
  if not out.exists():
    for row in jsonl.read(root / "2s" / "clips" / "train.jsonl"):
      texts += [*row["captions"], *(n["text"] for n in row["narrations"])]
    vocabularies.learn("wordpiece", texts, size=1_000).save(out)
  return out


def network(root: pathlib.Path) -> pathlib.Path:
  """The run of an S3D trained on `MOST` clips and narrations by MIL-NCE."""
  clips(root, 2)
  config = f"configs/mil_nce/generated.py:root={root},clips={MOST},steps=2400"
  sweeping.run(config, [sweep.parse("config.seed=0")], str(root / "s3d"))
  return root / "s3d" / "seed=0"


def features(root: pathlib.Path) -> pathlib.Path:
  """Features of the clips, the mean of S3D's last stage over 1.6 s, one each 0.8 s."""
  given = dict(split="train,test", frame_rate=5, window_s=1.6, stride_s=0.8)
  extract(root, network(root), clips(root, 2), root / "features", **given)
  return root / "features"


def short(root: pathlib.Path) -> pathlib.Path:
  """Features of more clips by the same network, of two frames each, twelve a clip."""
  data = clips(root, 2, MANY, name="many")
  given = dict(split="train,val", frame_rate=10 / 3, window_s=0.6)
  given["stride_s"] = 0.3
  extract(root, network(root), data, root / "short", num=MANY, **given)
  return root / "short"


def tree(root: pathlib.Path) -> None:
  """400 leaves of the features, VideoBERT's tokens."""
  given = dict(features=features(root), out=root / "tree.npz")
  tool("launch.cluster", **given, branching=20, depth=2)


def extract(root, run, data, out, *, num=MOST, **given) -> None:
  """`launch.extract` of a run of configs/mil_nce/generated.py."""
  vocab = {"config.vocab.file": root / "2s" / "shards" / "vocab.txt"}
  config = f"configs/mil_nce/generated.py:clips={num}"
  given |= dict(config=config, checkpoint=run, data=data, out=out)
  tool("launch.extract", **given, **vocab)


def located(root: pathlib.Path, run: pathlib.Path, data: pathlib.Path) -> dict:
  """Results of the step localisation with the model of a finished run."""
  given = dict(output="video_embed", frame_rate=3, stride_s=1)
  extract(root, run, data, run / "features", **given)
  config, out = "configs/mil_nce/crosstask.py", run / "located"
  given = {"config": config, "workdir": out, "checkpoint": run}
  tool("launch.eval", **given, **{"config.input.dir": run / "features"})
  return workdir.read_results(out)


def tool(module: str, *args: str, **given) -> None:
  """Runs a command of the project. Raises: UserError when it fails."""
  line: Sequence[str] = [*args, *(f"--{k}={v}" for k, v in given.items())]
  if subprocess.run([sys.executable, "-m", module, *line]).returncode:
    raise command.UserError(f"{module} ended with an error; see above.")
