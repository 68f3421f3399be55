"""TPU compiles of every config, without a TPU: python -m launch.bench.tpu

For each config and each of --chips the smallest slice on which its formulas say that
the published global batch fits, and there the real compile of the training step of the
task that needs most memory; needs requirements-tpu-aot.txt. Each compile has its own
process; they take one to ten minutes, and three times that for v6e. Lines that --out
holds are not made again.

  --configs=uniter/pretrain,bert/pretrain:variant=large   only these
  --chips=v5e,v6e,v5p   --topology=v5e:8x8 instead of the slice chosen
  --effort=-1           compiles three to eight times as fast, what then runs slower and
                        took up to a fifth more memory

Goals (P13): every config fits with at most 90 % of the memory; no gather of a whole
parameter under data parallelism; no float32 matmul in the layers of a bfloat16 model
outside of logits, softmax and losses (`float32`: their share of all FLOPs). `formula`
compares what is compiled with what launch.cost says of it (P12).
"""

import os

# Before jax starts: see launch.cost.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

import functools
import importlib.util
import json
import math
import pathlib
import re
import subprocess
import sys
import time

from absl import flags

from launch import command
from launch.bench import cost, timing

SLICES = {
  "v5e": ("4x4", "4x8", "8x8", "8x16", "16x16"),
  "v6e": ("2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
  "v5p": ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8"),
}
FORMS = (  # beside the plain form of every config
  "uniter/pretrain:variant=large",
  "bert/pretrain:variant=large",
  "mil_nce/howto100m:code",
  "mmv/fac:variant=tsm_resnet",
  "mmv/fac:variant=tsm_resnet_x2",
)
VOCABULARIES = {"words": 66_250, "wordpiece": 30_522}  # where the file is not here
# Logits, and scores of attention: their softmax is float32, so is its gradient.
ALLOWED = re.compile(r"(^|/|_)head|logits|project|pooler|classif|->bnqk$")
OP = re.compile(r"stablehlo\.(?:dot_general|convolution)\b.* loc\((#loc\d+)\)$", re.M)
PLACE = re.compile(r'^(#loc\d+) = loc\("([^"]*)"', re.M)
LEAST = 2**20  # bytes of a parameter whose gather would count
SMALL = 1e-4  # of all FLOPs: float32 matmuls below are not listed


def define():
  flags.DEFINE_list("configs", [], "As mil_nce/howto100m[:arg]; all when empty.")
  flags.DEFINE_list("chips", ["v5e", "v6e", "v5p"], "v5e, v6e, v5p.")
  flags.DEFINE_string("topology", None, "This slice for all, such as v5e:8x8.")
  flags.DEFINE_string("out", None, "JSON lines; what it holds is not made again.")
  flags.DEFINE_integer("timeout_s", 1_800, "Of one compile.")
  flags.DEFINE_float("effort", 0.0, "Of the compiler for speed, -1 to 1.", -1, 1)
  flags.DEFINE_string("case", None, "One config in this process; the others set it.")


def everything() -> list[str]:
  """All configs that train, as --configs takes them; others say launch.eval."""
  trains = lambda p: "launch.eval --config" not in p.read_text()
  files = sorted(p for p in pathlib.Path("configs").glob("*/*.py") if trains(p))
  plain = [
    f"{p.parent.name}/{p.stem}" for p in files if p.stem not in ("__init__", "common")
  ]
  return plain + [form for form in FORMS if form.partition(":")[0] in plain]


def load(name: str):
  """The config of `mil_nce/howto100m:arg`."""
  file, colon, arg = name.partition(":")
  return command.config_of(f"configs/{file}.py{colon}{arg}")


def float32(text: str) -> dict[str, float]:
  """{place in the model: share of all FLOPs} of matmuls that read float32.

  Args:
    text: StableHLO with locations. Losses are outside of the model, and its heads make
      logits: neither counts.
  """
  from vlp_jax.costs import dots

  places, total, found = dict(PLACE.findall(text)), 0, {}
  for match in OP.finditer(text):
    for dtype, one in dots.by_dtype(match[0]).items():
      total += one["flops"]
      place = places.get(match[1], "").rpartition("/")[0]
      inside = re.sub(
        r"^jit\(\w+\)/|transpose\((.*?\))\)|jvp\((\w*)\)/?", r"\1\2", place
      )
      inside = inside.removeprefix("Model").strip("/()")
      is_model = "Model" in place or "layers" in place
      if dtype == "f32" and is_model and not ALLOWED.search(inside):
        found[inside] = found.get(inside, 0) + one["flops"]
  return {k: v / total for k, v in sorted(found.items(), key=lambda x: -x[1])}


def choose(config, chip: str, slices, *, vocab_size: int | None) -> tuple[str, dict]:
  """(slice, report) of the smallest slice where all fits by formula, or the largest.

  The report is that of the smallest over which the rows divide, for it takes a while;
  `bytes_total` is what remains of it on the slice chosen. A batch that divides over
  none of them, as CrossTask's of one video, takes so many chips of the smallest.
  Raises: UserError where that does not help.
  """
  from vlp_jax.costs import chips, job, report
  from vlp_jax.errors import UserError

  first = None
  for shape in slices:
    count = math.prod(map(int, shape.split("x")))
    try:
      made = job.build(config, chips.devices(count), vocab_size=vocab_size)
    except UserError:
      continue
    first = first or report.of(made, chip)
    moving = first["bytes_activations"] + first["bytes_batch"]
    least = moving * (1 - first["chips"] / count)
    best = shape, first | {"chips": count, "bytes_total": first["bytes_total"] - least}
    if best[1]["bytes_total"] <= chips.FITS * first["hbm_bytes"]:
      break
  if first is None:
    devices = chips.devices(math.prod(map(int, slices[0].split("x"))))
    made = job.build(config, devices, vocab_size=vocab_size, fewer=True)
    best = slices[0], report.of(made, chip)
  return best


def look(job, lowered, compiled) -> dict:
  """Gathers of whole parameters and float32 matmuls of a compiled step."""
  import jax

  from vlp_jax import hlo

  big = {
    jax.tree_util.keystr(path, simple=True, separator="/"): x.shape
    for path, x in jax.tree_util.tree_flatten_with_path(job.abstract.params)[0]
    if x.size * x.dtype.itemsize >= LEAST
  }
  gathered = hlo.gathered(compiled.as_text()) if compiled is not None else set()
  low = str(getattr(job.model, "dtype", "float32")) != "float32"
  found = float32(lowered.as_text(debug_info=True)) if low else {}
  return {
    "gathers": sorted(k for k, shape in big.items() if shape in gathered),
    "float32": sum(found.values()) if low else None,
    "float32_places": {k: v for k, v in found.items() if v >= SMALL},
  }


def facts(
  name: str, chip: str, topology: str | None = None, *, effort: float = 0.0, **given
) -> dict:
  """One line: the compile of a config for a chip.

  Args:
    effort: of the compiler, see --effort.
    given: `slices` to choose from instead of those of `SLICES`.
  """
  import jax

  jax.config.update("jax_platforms", "cpu")
  jax.config.update("jax_enable_compilation_cache", False)  # its seconds are measured
  jax.config.update("jax_exec_time_optimization_effort", effort)
  from vlp_jax.costs import job as job_lib
  from vlp_jax.costs import topology as topology_lib

  config = load(name)
  vocab = dict(config.get("vocab") or {})
  known = pathlib.Path(str(vocab.get("file", ""))).name.startswith("bert-")
  size = None if known else VOCABULARIES.get(vocab.get("name"))
  slices = (
    given.get("slices", SLICES[chip])
    if topology is None
    else (topology.partition(":")[2],)
  )
  shape, report = choose(config, chip, slices, vocab_size=size)
  place = f"{chip}:{shape}"
  tasks = report["tasks"]
  task = max(tasks, key=lambda t: tasks[t]["bytes_activations"])
  devices, given = topology_lib.devices(place), dict(vocab_size=size, task=task)
  job = job_lib.build(config, devices, fewer=True, **given)
  begin, used = time.perf_counter(), time.process_time()
  made = topology_lib.compile_step(job, task, chip, look=functools.partial(look, job))
  moved = {k: v["bytes"] for k, v in made["collectives"].items()}
  return {
    "chip": chip,
    "effort": effort,
    "topology": place,
    "chips": report["chips"],
    "mesh": {k: n for k, n in dict(job.mesh.shape).items() if n > 1},
    "task": task,
    "rows": job.tasks[task].rows,
    "micro": job.settings.micro,
    "params": report["params"],
    "fits": made["fits"],
    "bytes": made["bytes_total"],
    "hbm_bytes": made["hbm_bytes"],
    "share": made["bytes_total"] / made["hbm_bytes"],
    "bytes_formula": report["bytes_total"],
    "formula": cost.facts("memory", report["bytes_total"], made["bytes_total"]),
    "collective_bytes": moved,
    "gathers": made["gathers"],
    "float32": made["float32"],
    "float32_places": made["float32_places"],
    "advice": made["advice"],
    "compile_s": time.perf_counter() - begin,
    "processor_s": time.process_time() - used,
  }


def one(
  name: str, chip: str, topology: str | None, timeout_s: float, effort: float
) -> dict:
  """`facts` in a process of its own; {"error"} where it fails or takes too long."""
  at = [f"--case={name}", f"--chips={chip}"]
  at += [f"--topology={topology}"] if topology else []
  at += [f"--effort={effort}"]
  run = [sys.executable, "-m", "launch.bench.tpu", *at]
  try:
    done = subprocess.run(run, capture_output=True, text=True, timeout=timeout_s)
  except subprocess.TimeoutExpired:
    return {"chip": chip, "error": f"more than {timeout_s} s"}
  if done.returncode == 0:
    return json.loads(done.stdout.splitlines()[-1])
  said = [line for line in done.stderr.splitlines() if "rror" in line] or ["died"]
  return {"chip": chip, "error": said[-1][:400]}


def table(lines) -> str:
  """Markdown of all lines."""
  heads = "config", "slice", "parameters", "rows", "memory a chip", "fits"
  heads += "collectives a step", "compile (CPU)"
  rows = [heads, ["---"] * len(heads)]
  for r in lines:
    if "error" in r:
      rows.append([r["case"], r["chip"], *[""] * 3, r["error"], "", ""])
      continue
    gib, moved = 2**30, sum(r["collective_bytes"].values())
    memory = f"{r['bytes'] / gib:.1f} of {r['hbm_bytes'] / gib:.0f} GiB"
    row = [r["case"], r["topology"], f"{r['params'] / 1e6:.1f} M", f"{r['rows']:,}"]
    row += [f"{memory}, {r['share']:.0%}", "yes" if r["fits"] else "no"]
    rows.append([*row, f"{moved / 1e6:,.0f} MB", f"{r['processor_s']:.0f} s"])
  return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main():
  values = flags.FLAGS
  from vlp_jax.errors import UserError

  unknown = set(values.chips) - set(SLICES)
  if unknown:
    raise UserError(
      f"--chips {sorted(unknown)[0]!r}; give some of {', '.join(SLICES)}."
    )
  if values.case:
    given = values.chips[0], values.topology
    print(json.dumps(facts(values.case, *given, effort=values.effort)))
    return
  if values.topology:
    from vlp_jax.costs import topology

    topology.parse(values.topology)
  for name in values.configs:
    if not load(name).get("tasks"):
      raise UserError(f"--configs {name} has no tasks: it trains nothing.")
  if importlib.util.find_spec("libtpu") is None:
    raise UserError("needs the TPU compiler: pip install -r requirements-tpu-aot.txt.")
  chips = [values.topology.partition(":")[0]] if values.topology else values.chips
  out = pathlib.Path(values.out) if values.out else None
  lines = (
    [json.loads(x) for x in out.read_text().splitlines()]
    if out and out.exists()
    else []
  )
  lines = [r for r in lines if "error" not in r]  # these are tried again
  done = {(r["case"], r["chip"]) for r in lines}
  cases = [(n, c) for c in chips for n in values.configs or everything()]
  from data_pipelines import progress

  todo = [c for c in cases if c not in done]
  with progress.bar("compiles", len(cases), done=len(cases) - len(todo)) as show:
    for k, (name, chip) in enumerate(todo, 1):
      made = one(name, chip, values.topology, values.timeout_s, values.effort)
      lines.append(timing.emit("tpu", name, **made))
      if out:  # several such commands may share one file
        with out.open("a") as file:
          file.write(json.dumps(lines[-1]) + "\n")
      show(k)
  print(table(lines))


if __name__ == "__main__":
  define()
  command.main(main)
