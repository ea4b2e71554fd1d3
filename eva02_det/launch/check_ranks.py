"""Whether ranks reach each other: a sum over all of them, as `python -m eva02_det.launch.check_ranks` in each of two processes.

Started by srun or torchrun with several ranks, it is the ranks of that job which are tested, over the network that it has.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from eva02_det.launch.finding import FAULT, NOTE, OK, Finding
from eva02_det.launch.place import Place
from eva02_det.launch.process_group import join

NUMBERS = 2**22  # fp32, 16 MiB
LIMIT_S = 180
VARIABLE = "EVA02_CHECK_BACKEND"


def check_two_ranks() -> Iterator[Finding]:
    """Two processes of this machine, with gloo, and with nccl where there are two GPUs."""
    yield _two("gloo")
    if torch.cuda.device_count() >= 2:
        yield _two("nccl")
    else:
        yield Finding("nccl", NOTE, f"needs two GPUs, of which {torch.cuda.device_count()} are here; `srun` this on GPU nodes")


def check_job_ranks(place: Place) -> Finding:
    """The ranks that SLURM or torchrun started; every one calls this, all get the finding. UserError where they do not meet."""
    join(place)
    speed = _exchange()
    hosts: list[str] = [""] * place.world
    dist.all_gather_object(hosts, socket.gethostname())
    machines = sorted(set(hosts))
    text = (
        f"{place.world} of {place.source} on {len(machines)} machines ({', '.join(machines[:8])}), {dist.get_backend()}: {speed}"
    )
    dist.barrier()
    dist.destroy_process_group()
    return Finding("ranks", OK, text)


def _two(backend: str) -> Finding:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), VARIABLE: backend}
    path = os.pathsep.join(one for one in sys.path if one)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "eva02_det.launch.check_ranks"],
            env={**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank), "PYTHONPATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [rank.communicate(timeout=LIMIT_S) for rank in ranks]
    except subprocess.TimeoutExpired:
        remedy = "a firewall on the loopback or a wrong GLOO_SOCKET_IFNAME / NCCL_SOCKET_IFNAME does this"
        return Finding(backend, FAULT, f"two ranks of this machine did not exchange a number within {LIMIT_S} s", remedy)
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    if any(rank.returncode for rank in ranks):
        reason = next((lines[-1] for _, said in outputs if (lines := said.strip().splitlines())), "no word")
        return Finding(
            backend,
            FAULT,
            f"two ranks of this machine failed: {reason}",
            "NCCL_DEBUG=INFO or TORCH_DISTRIBUTED_DEBUG=DETAIL tells more",
        )
    return Finding(backend, OK, f"two ranks of this machine: {outputs[0][0].strip()}")


def _exchange() -> str:
    """Sum a tensor over all ranks, check it, and say how long that took. Raises RuntimeError for a wrong sum."""
    world, device = dist.get_world_size(), "cuda" if dist.get_backend() == "nccl" else "cpu"
    numbers = torch.ones(NUMBERS, device=device)
    dist.all_reduce(numbers)  # connects
    began = time.perf_counter()
    dist.all_reduce(numbers)
    right = bool((numbers == world**2).all())  # waits for the device
    took_ms = 1000 * (time.perf_counter() - began)
    if not right:
        raise RuntimeError(f"the sum over {world} ranks is wrong")
    return f"the sum of 16 MiB is right and took {took_ms:.0f} ms"


def main() -> None:
    backend = os.environ[VARIABLE]
    if backend == "nccl":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group(backend, timeout=timedelta(seconds=LIMIT_S))
    said = _exchange()
    dist.destroy_process_group()
    if os.environ["RANK"] == "0":
        sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main()
