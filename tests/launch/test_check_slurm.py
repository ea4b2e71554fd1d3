"""What SLURM's settings mean, in the words of `scontrol show config`."""

import pytest

from eva02_det.launch.check_slurm import judge, settings_of

CONFIG = """Configuration data as of 2026-11-25T21:00:00
JobRequeue              = 1
KillWait                = 30 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SlurmctldParameters     = enable_configless,preempt_send_user_signal
SLURM_VERSION           = 22.05.8
"""


def judged(text: str, save_s: float | None = None) -> dict[str, tuple[str, str]]:
    return {one.topic: (one.state, f"{one.text} {one.remedy}") for one in judge(settings_of(text), save_s)}


def test_a_cluster_that_gives_notice_and_time_is_in_order():
    found = judged(CONFIG, save_s=10)
    assert {state for state, _ in found.values()} == {"ok"}
    assert "preempt_send_user_signal is set" in found["preemption"][1]


@pytest.mark.parametrize(
    ("old", "new", "topic", "said"),
    [
        (",preempt_send_user_signal", "", "preemption", "a preempted job gets TERM, then KILL 30 s later"),
        ("= REQUEUE", "= CANCEL", "requeue", "not put back"),
        ("JobRequeue              = 1", "JobRequeue              = 0", "requeue", "after a node fails"),
        ("30 sec", "5 sec", "KillWait", "5 s between TERM and KILL, but a checkpoint takes about 10 s"),
    ],
)
def test_what_would_lose_work_is_a_warning_with_a_remedy(old: str, new: str, topic: str, said: str):
    state, text = judged(CONFIG.replace(old, new), save_s=10)[topic]
    assert state == "warning"
    assert said in text


def test_where_nothing_is_preempted_no_notice_is_missed():
    quiet = CONFIG.replace("preempt/partition_prio", "preempt/none").replace(",preempt_send_user_signal", "")
    assert judged(quiet)["preemption"][0] == "ok"
