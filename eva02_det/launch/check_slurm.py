"""How this cluster ends jobs: whether there is time to save, and whether the notice comes at all."""

import re
import shutil
import subprocess
from collections.abc import Iterator

from eva02_det.launch.finding import NOTE, OK, WARNING, Finding

NOTICE = "preempt_send_user_signal"


def check_slurm(save_s: float | None = None) -> Iterator[Finding]:
    """Findings on the SLURM that this machine belongs to. save_s: seconds that a checkpoint takes, where that is known."""
    if shutil.which("scontrol") is None:
        yield Finding("SLURM", NOTE, "there is no scontrol here; run this on a login node of the cluster too")
        return
    said = _scontrol("config")
    if said is None:
        yield Finding("SLURM", WARNING, "scontrol does not reach its controller", "set SLURM_CONF, or see `scontrol ping`")
        return
    config = settings_of(said)
    yield Finding("SLURM", OK, f"{config.get('SLURM_VERSION', '?')}, cluster {config.get('ClusterName', '?')}")
    yield from judge(config, save_s)
    for block in (_scontrol("partition") or "").split("\n\n"):
        facts = dict(re.findall(r"(\w+)=(\S+)", block))
        if facts:
            yield Finding("partition", OK, _partition(facts))


def settings_of(text: str) -> dict[str, str]:
    """`scontrol show config` by name."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def judge(config: dict[str, str], save_s: float | None = None) -> Iterator[Finding]:
    """What the settings mean for a run that is preempted, requeued or at its time limit."""
    preempts = config.get("PreemptType", "preempt/none") != "preempt/none"
    if not preempts:
        yield Finding("preemption", OK, "jobs are not preempted here (PreemptType is preempt/none)")
    elif NOTICE in config.get("SlurmctldParameters", ""):
        yield Finding("preemption", OK, f"{NOTICE} is set: a job that asks for --signal gets it before it is preempted")
    else:
        text = f"{NOTICE} is not set: a preempted job gets TERM, then KILL {_kill_wait(config):.0f} s later"
        remedy = f"ask for SlurmctldParameters={NOTICE}; until then save often (train.checkpointer.period)"
        yield Finding("preemption", WARNING, text, remedy)
    mode = config.get("PreemptMode", "OFF").upper()
    if preempts and "REQUEUE" not in mode:
        text = f"PreemptMode={mode}: preempted jobs are not put back by SLURM"
        yield Finding("requeue", WARNING, text, "tools/submit.py requeues a job that got its signal; others submit again")
    if config.get("JobRequeue", "1") == "0":
        yield Finding("requeue", WARNING, "JobRequeue=0: jobs are not put back after a node fails", "tools/submit.py asks for it")
    wait_s = _kill_wait(config)
    if save_s is None:
        yield Finding(
            "KillWait", NOTE, f"{wait_s:.0f} s between TERM and KILL; with --config-file it is held against a checkpoint"
        )
    elif wait_s < 1.5 * save_s:
        text = f"{wait_s:.0f} s between TERM and KILL, but a checkpoint takes about {save_s:.0f} s"
        remedy = f"submit with --signal-before {max(60, round(4 * save_s))}, so that saving does not begin with TERM"
        yield Finding("KillWait", WARNING, text, remedy)
    else:
        yield Finding("KillWait", OK, f"{wait_s:.0f} s between TERM and KILL; a checkpoint takes about {save_s:.0f} s")


def _kill_wait(config: dict[str, str]) -> float:
    found = re.match(r"\d+", config.get("KillWait", ""))
    return float(found[0]) if found else 30.0


def _partition(facts: dict[str, str]) -> str:
    """The limits of one, in words."""
    limits = f"time limit {facts.get('MaxTime', '?')} (default {facts.get('DefaultTime', '?')})"
    notice = f"{facts.get('GraceTime', '0')} s of grace on preemption, PreemptMode={facts.get('PreemptMode', '?')}"
    return (
        f"{facts.get('PartitionName', '?')}: {limits}, {notice}, {facts.get('State', '?')}, {facts.get('TotalNodes', '?')} nodes"
    )


def _scontrol(what: str) -> str | None:
    try:
        done = subprocess.run(["scontrol", "show", what], capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:
        return None
    return done.stdout if done.returncode == 0 else None
