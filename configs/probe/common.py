"""What the probes share: clips and sounds as inputs, and the generated stand-in."""

import ml_collections

# What a model was trained on: its own sampling, where a protocol does not say.
CLIPS = ("num_frames", "frame_rate", "size", "short")
# Arguments of HMDB51 and UCF101 beside those of MMV's protocol.
MIL_NCE = dict(mil_nce=False, code=False, runlocal=False)


def config(stream: str, data: str) -> ml_collections.ConfigDict:
  """A probe of features of `stream` on the prepared data in `data`."""
  c = ml_collections.ConfigDict()
  c.stream, c.data, c.seed = stream, data, 0
  c.method, c.output, c.average = "", "", False  # encode_<stream>, <stream>_features
  c.model, c.inherit = {}, ()
  c.mesh = dict(dcn=1, data=-1, fsdp=1, model=1)
  c.evals = {}
  return c


def clips(**more) -> dict:
  """An input of videos with their action."""
  given = dict(task="narrated_clips", fields=("video", "label"), text="none", rows=32)
  return given | dict(flip=True) | more


def sounds(**more) -> dict:
  """An input of recordings with their class."""
  return dict(task="sounds", rows=32, short="loop") | more


def splits(passes: int, windows: int, only: int = 0) -> dict:
  """Inputs of three official splits, or of one of them, and their evaluator."""
  one = lambda k: {
    "train": dict(dir=f"split{k}", split="train", passes=passes),
    "test": dict(dir=f"split{k}", split="test", windows=windows),
  }
  if only:
    return one(only) | dict(evaluator="linear_probe")
  many = {f"{name}_{k}": v for k in (1, 2, 3) for name, v in one(k).items()}
  return many | dict(evaluator="linear_probe:Splits")


def mil_nce(windows: int, only: int, *, code: bool) -> dict:
  """MIL-NCE's linear evaluation: LinearSVC of unscaled features, C = 100.

  Ten windows of 32 frames at the videos' own rate, evenly spaced, and their mirror
  images; each is a row in training, in tests the decision scores of a video's rows are
  averaged, which ranks as their sum. The published code (`code`) makes the mirror
  images and returns the windows without them.
  """
  given = splits(0, windows, only)
  for part in (v for v in given.values() if isinstance(v, dict)):
    part.pop("passes", None)
    part.update(windows=windows, mirror=not code)
  return given | dict(
    labels=("action",), classifier="svm", cs=(100.0,), options=(("scale", False),)
  )


def runlocal(c: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
  """The probe on generated clips, sampled as the checkpoint's training was."""
  heard = "audio" if c.stream == "audio" else "video"
  c.data, c.inherit = "synthetic/narrated", (*CLIPS, "audio_hz")
  c.input = dict(task="narrated_clips", fields=(heard, "label"), text="none", rows=8)
  c.evals = {}
  c.evals.local = dict(
    evaluator="linear_probe",
    train=dict(split="train", passes=2),
    test=dict(split="test", windows=2),
    labels=("action",),
    classifier="svm",
    cs=(0.01,),
  )
  return c
