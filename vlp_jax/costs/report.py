"""The cost of a config as one dict, and as a table for people.

Parameters and FLOPs are global, bytes are those of a device; FLOPs, collectives and
times are means over the tasks of a step, memory that of the most demanding one.
"""

from collections.abc import Mapping
from typing import Any

import jax

from vlp_jax.costs import chips, families, memory, roofline, traffic
from vlp_jax.costs import job as job_lib


def task_cost(
  job: job_lib.Job, name: str, chip: chips.Chip, *, lengths: Mapping[str, float]
) -> dict[str, Any]:
  """Everything about one task's step, see `of`."""
  one, family = job.tasks[name], families.of(job.model)
  forward = lambda n: family.forward(job.model, one.batch, n, one.place)
  training = lambda parts: family.training(job.model, parts, one.place)
  padded, useful = forward(None), forward(lengths)
  again = family.recomputed(job.model, one.batch, one.place)
  peak, written = memory.activations(job, name, platform=chip.platform)
  batch = sum(map(memory.size, one.batch.values())) / job.shards
  moved = traffic.collectives(job, name)
  computed = training(padded) + again
  bound = roofline.bound(
    chip,
    flops=computed / job.mesh.size,
    traffic=traffic.moved(job, written, batch),
    collectives=moved,
    dtype=str(getattr(job.model, "dtype", "float32")),
  )
  return {
    "share": one.share,
    "rows": one.rows,
    "flops_forward": {k: round(v) for k, v in padded.items()},
    "flops_useful": training(useful),
    "flops_padded": training(padded),
    "flops_computed": computed,
    "bytes_activations": peak,
    "bytes_batch": batch,
    "collectives": traffic.by_kind(moved),
    "bound": bound._asdict(),
    "step_s": bound.step_s,
  }


def of(
  job: job_lib.Job, chip_name: str, *, lengths: Mapping[str, float] | None = None
) -> dict[str, Any]:
  """The report of `launch.cost`; the keys of DESIGN's cost report and some more.

  Args:
    lengths: means of real entries a row, as the model's family takes them.
  """
  chip = chips.chip(chip_name)
  tasks = {n: task_cost(job, n, chip, lengths=lengths or {}) for n in job.tasks}
  mean = lambda key: sum(t["share"] * t[key] for t in tasks.values())
  most = lambda key: max(t[key] for t in tasks.values())
  state = {
    "bytes_params": memory.held(job.abstract.params),
    "bytes_gradients": memory.gradients(job),
    "bytes_optimizer": memory.held(job.abstract.opt_state),
    "bytes_mutable": memory.held(job.abstract.mutable),
    "bytes_activations": most("bytes_activations"),
    "bytes_batch": most("bytes_batch"),
  }
  total, step_s = sum(state.values()), mean("step_s")
  count = job.mesh.size
  hosts = max(count // chip.per_host, 1)
  rows = sum(t["share"] * t["rows"] for t in tasks.values())
  read = sum(t["share"] * t["bytes_batch"] for t in tasks.values()) * job.shards
  hours = job.settings.total_steps * step_s / 3600
  worst = max(tasks, key=lambda n: tasks[n]["share"] * tasks[n]["step_s"])
  return {
    "model": job.settings.model["name"],
    "chip": chip_name,
    "chips": count,
    "mesh": dict(job.mesh.shape),
    "params": sum(x.size for x in jax.tree.leaves(job.abstract.params)),
    "flops_useful": mean("flops_useful"),
    "flops_padded": mean("flops_padded"),
    "flops_computed": mean("flops_computed"),
    **{k: round(v) for k, v in state.items()},
    "bytes_total": round(total),
    "hbm_bytes": round(chip.hbm_bytes),
    "fits": bool(total <= chips.FITS * chip.hbm_bytes),
    "collectives": _mean_collectives(tasks),
    "input_mb_s": read / step_s / hosts / 1e6,
    "examples_s": rows / step_s,
    "examples_s_host": rows / step_s / hosts,
    "bound_by": tasks[worst]["bound"]["bound_by"],
    "step_s": step_s,
    "mfu_bound": mean("flops_useful") / step_s / (chip.flops * count),
    "steps": job.settings.total_steps,
    "hours": hours,
    "chip_hours": hours * count,
    "tasks": tasks,
    "notes": [*job.notes, *memory.notes(job, chip.platform)],
  }


def _mean_collectives(tasks) -> dict[str, dict[str, float]]:
  out = {}
  for t in tasks.values():
    for kind, one in t["collectives"].items():
      into = out.setdefault(kind, {"count": 0.0, "bytes": 0.0})
      for k in into:
        into[k] += t["share"] * one[k]
  return {k: {n: round(x) for n, x in v.items()} for k, v in out.items()}


def table(report: Mapping[str, Any]) -> str:
  """The report for people."""
  r = report
  gb = lambda x: f"{x / 1e9:,.3f} GB"
  mesh = " x ".join(f"{k} {v}" for k, v in r["mesh"].items() if v > 1) or "1 device"
  lines = [
    f"{r['model']} on {r['chips']} x {r['chip']} ({mesh})",
    "",
    f"parameters            {r['params']:,}",
    f"useful FLOPs a step   {r['flops_useful']:.4g}",
    f"  with padding        {r['flops_padded']:.4g}",
    f"  with recompute      {r['flops_computed']:.4g}",
    "",
    "bytes a device",
  ]
  for k in ("params", "gradients", "optimizer", "mutable", "activations", "batch"):
    lines.append(f"  {k:<19} {gb(r[f'bytes_{k}']):>14}")
  fits = "fits" if r["fits"] else "does not fit"
  lines += [
    f"  {'total':<19} {gb(r['bytes_total']):>14}  {fits} {gb(r['hbm_bytes'])}",
    "",
    "collectives a step, results on a device",
    *_kinds(r["collectives"]),
    "",
    f"step                  {_time(r['step_s'])} at least, bound by {r['bound_by']}",
    f"useful share of peak  {r['mfu_bound']:.1%} at most",
    f"examples              {r['examples_s']:,.0f}/s",
    f"input of a host       {r['examples_s_host']:,.0f}/s, {r['input_mb_s']:,.1f} MB/s",
    f"schedule              {r['steps']:,} steps: {r['hours']:,.2f} h, "
    f"{r['chip_hours']:,.1f} chip-hours",
    "",
    f"{'task':<12} {'share':>6} {'rows':>7} {'useful':>10} {'activations':>14}  step",
  ]
  for name, t in r["tasks"].items():
    slowest = t["bound"]["bound_by"]
    lines.append(
      f"{name:<12} {t['share']:>6.1%} {t['rows']:>7,} {t['flops_useful']:>10.3g} "
      f"{gb(t['bytes_activations']):>14}  {_time(t['step_s'])} ({slowest})"
    )
  if r["notes"]:
    lines += ["", *(f"note: {n}." for n in r["notes"])]
  if "tpu" in r:
    lines += ["", *_tpu(r["tpu"], gb)]
  if "compiled" in r:
    c = r["compiled"]
    lines += [
      "",
      f"compiled on CPU ({c['task']}): temporaries {gb(c['bytes_temporary'])}",
    ]
    lines.append(f"  by formula, with gradients: {gb(c['estimated'])}")
  if "remat" in r:
    chosen = r["remat"]
    sizes = [f"{k} too large: {gb(v)} in all" for k, v in chosen["too_large"].items()]
    sizes += [f"{k} {gb(v)}" for k, v in chosen["temporary"].items()]
    told = ", ".join(sizes)
    lines += ["", f"least recompute: model.remat={chosen['policy']} ({told})"]
  return "\n".join(lines)


def _kinds(found) -> list[str]:
  if not found:
    return ["  none"]
  show = lambda k, v: f"  {k:<19} {v['bytes'] / 1e6:>11,.2f} MB  {v['count']:,} times"
  return [show(k, v) for k, v in found.items()]


def _tpu(t, gb) -> list[str]:
  verdict = "fits" if t["fits"] else f"too large by {gb(t['overshoot_bytes'])}"
  lines = [
    f"TPU compile of {t['task']} for {t['devices']} devices: {gb(t['bytes_total'])} of "
    f"{gb(t['hbm_bytes'])} a device, {verdict}",
    *_kinds(t["collectives"]),
    "matmuls asked for, a loop's body once:",
  ]
  for dtype, d in t["dots"].items():
    size = "x".join(map(str, d["largest"]))
    lines.append(
      f"  {dtype:<19} {d['count']:>5} of {d['flops']:.3g} FLOP, up to {size}"
    )
  return lines + [f"  try: {a}" for a in t["advice"]]


def _time(seconds: float) -> str:
  return f"{seconds * 1e3:,.2f} ms" if seconds < 1 else f"{seconds:,.2f} s"
