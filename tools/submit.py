#!/usr/bin/env python3
"""Submit a run to SLURM: `submit.py ENTRY [options] -- arguments of the entry point`; docs/slurm.md tells more.

submit.py train --nodes 4 --gpus-per-node 8 --partition main --time 24h -- --config-file FILE train.output_dir=DIR a.b.c=value
submit.py pretrain ... --array "optimizer.lr=1e-3" "optimizer.lr=2e-3" -- --config-file FILE train.output_dir=DIR
submit.py eval --gpus-per-node 8 --dry-run -- --model DIR       # prints the batch script and what each rank will see
submit.py find_duplicates --array 32 --cpus-per-task 16 -- --evaluation lvis_v1_val --corpus NAME=SPEC ... --out DIR
"""

import sys
from pathlib import Path

from eva02_det.launch.plan import Plan, check_run, make_plan, parser, split
from eva02_det.launch.slurm import ended_well, run_here, submit
from eva02_det.utils.errors import run_tool

ROOT = Path(__file__).resolve().parents[1]


def tell(plan: Plan, described: str) -> None:
    """What --dry-run prints."""
    parts = {
        "batch script": plan.script(),
        "ranks": plan.ranks(),
        "commands": plan.commands(),
        "run": described,
        "afterwards": plan.afterwards(),
    }
    print("\n\n".join(f"== {heading} ==\n{text}" for heading, text in parts.items() if text))


def main() -> None:
    own, passed = split(sys.argv[1:])
    options = parser().parse_args(own)
    plan = make_plan(options, passed, ROOT)
    described = check_run(plan)  # wrong input is said before the queue
    if options.dry_run:
        tell(plan, described)
        return
    after = [f"when all have come to their end: {plan.afterwards()}"] if plan.afterwards() else []
    print(plan.code.describe())
    if options.local:
        print(f"run folder: {plan.folder}; logs: {plan.logs}", flush=True)
        jobs = run_here(plan.request, plan.jobs, plan.logs)
        failed = [job.job_id for job in jobs if not ended_well(job)]
        print(f"{len(jobs) - len(failed)} of {len(jobs)} came to their end" + (f"; not {', '.join(failed)}" if failed else ""))
        print(*after, sep="\n", end="\n" if after else "")
        sys.exit(1 if failed else 0)
    for job in submit(plan.request, plan.jobs, plan.logs):
        print(f"submitted job {job.job_id}; log of rank 0: {job.paths.stdout}")
    print(f"run folder: {plan.folder}", *after, sep="\n")


if __name__ == "__main__":
    run_tool(main)
