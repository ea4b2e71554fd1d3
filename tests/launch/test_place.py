"""Where a process stands in its run: what torchrun, SLURM and submitit say, and what none of them can mean."""

import pytest

from eva02_det.launch.place import Place, find_place, first_host, port_of
from eva02_det.utils.errors import UserError

TORCHRUN = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"} | {
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}


def step(rank: int = 5, node: int = 1, local: int = 1, tasks: str = "4(x2)", world: int = 8) -> dict[str, str]:
    """What `srun` tells a task."""
    names = {"STEP_NUM_TASKS": world, "STEP_TASKS_PER_NODE": tasks, "PROCID": rank, "LOCALID": local, "NODEID": node}
    names |= {"STEP_NODELIST": "gpu[03-04]", "STEP_ID": 0, "JOB_ID": 77}
    return {f"SLURM_{name}": str(value) for name, value in names.items()}


def test_nobody_started_a_process_that_is_alone():
    assert find_place({}) is None


def test_torchrun_says_everything():
    assert find_place(TORCHRUN) == Place("torchrun", 5, 8, 1, 4, "first", 29500)


def test_torchrun_goes_before_slurm_as_srun_may_start_it():
    place = find_place(TORCHRUN | step())
    assert place is not None
    assert place.source == "torchrun"


def test_tasks_of_srun_meet_at_the_first_host_and_a_port_of_their_job():
    place = find_place(step())
    assert place == Place("SLURM", 5, 8, 1, 4, "gpu03", port_of(77))
    other = find_place(step(rank=0, node=0, local=0))
    assert other is not None
    assert (other.address, other.port) == ("gpu03", port_of(77))


def test_address_and_port_may_be_set():
    place = find_place(step() | {"MASTER_ADDR": "10.0.0.3", "MASTER_PORT": "4711"})
    assert place is not None
    assert (place.address, place.port) == ("10.0.0.3", 4711)


def test_a_batch_script_is_no_rank():
    variables = {name: value for name, value in step(rank=0, node=0, local=0).items() if "STEP" not in name}
    assert find_place(variables) is None


def test_the_only_task_of_srun_may_start_processes_itself():
    assert find_place(step(rank=0, node=0, local=0, tasks="1", world=1)) is None


def test_submitits_local_tasks_meet_on_this_machine():
    variables = {"SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_NTASKS": "2", "SUBMITIT_LOCAL_GLOBALID": "1"}
    place = find_place(variables | {"SUBMITIT_LOCAL_JOB_ID": "99"})
    assert place == Place("submitit", 1, 2, 1, 2, "127.0.0.1", port_of(99))


@pytest.mark.parametrize(
    ("variables", "remedy"),
    [(step(tasks="4,3"), "--ntasks-per-node"), (step(rank=3, node=1, local=1), "--distribution=block")],
)
def test_tasks_that_are_spread_unevenly_are_refused(variables: dict[str, str], remedy: str):
    with pytest.raises(UserError, match=remedy):
        find_place(variables)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("vm", "vm"),
        ("gpu[03-07,11],big1", "gpu03"),
        ("big1,gpu[03-07]", "big1"),
        ("rack[2-3]-node[11,14]", "rack2-node11"),
        ("gpu[7,9]", "gpu7"),
    ],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str):
    assert first_host(nodes) == first


def test_neighbouring_jobs_and_restarts_have_ports_of_their_own_below_those_of_connections():
    ports = [port_of(job, restart) for job in range(500, 600) for restart in range(16)]
    assert len(set(ports)) == len(ports)
    assert all(1024 < port_of(job, 3) < 32768 for job in (1, 4_999, 12_345_678))
