"""Whether this machine has what a run needs: versions, devices, cores, memory and limits."""

import importlib.metadata
import os
import platform
import re
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch

from eva02_det import _provider
from eva02_det.launch.cores import allowed
from eva02_det.launch.finding import FAULT, NOTE, OK, WARNING, Finding

GIB = 2**30
PACKAGE = "eva02-det"
SHARED_MEMORY_GIB = 1.0  # loader workers hand their batches over in /dev/shm
OPEN_FILES = 4096  # a worker holds a descriptor for each tensor under way


def check_machine() -> Iterator[Finding]:
    """Findings on this machine alone."""
    yield from check_versions()
    yield from check_devices()
    yield from check_limits()


def check_versions() -> Iterator[Finding]:
    """The interpreter, torch, the provider, and every package that the installation asks for."""
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    text = f"Python {platform.python_version()}, torch {torch.__version__} ({build}); {_provider.describe()}"
    yield Finding("versions", OK, text)
    try:
        wrong = list(unmet(importlib.metadata.requires(PACKAGE) or []))
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", NOTE, f"{PACKAGE} is not installed but run from its folder: its dependencies are not known")
        return
    if wrong:
        yield Finding("packages", FAULT, "; ".join(wrong), "pip install -c constraints.txt -e . (or `pip install eva02-det`)")
    else:
        yield Finding("packages", OK, "all that the installation asks for, in versions that suit")


def unmet(requirements: list[str]) -> Iterator[str]:
    """Those of a package's requirements, extras left aside, that are not met, in words."""
    from packaging.requirements import Requirement

    for text in requirements:
        asked = Requirement(text)
        if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
            continue
        try:
            found = importlib.metadata.version(asked.name)
        except importlib.metadata.PackageNotFoundError:
            yield f"{asked.name} is missing"
            continue
        if not asked.specifier.contains(found, prereleases=True):
            yield f"{asked.name} is {found}, not {asked.specifier}"


def check_devices() -> Iterator[Finding]:
    """Each GPU computes; its name and memory."""
    if not torch.cuda.is_available():
        if shutil.which("nvidia-smi") and torch.version.cuda is None:
            remedy = "install torch's build for the CUDA of your driver, see pytorch.org"
            yield Finding("devices", FAULT, "there is an NVIDIA driver, but torch was built without CUDA", remedy)
        elif torch.version.cuda and os.environ.get("CUDA_VISIBLE_DEVICES") == "":
            yield Finding("devices", WARNING, "CUDA_VISIBLE_DEVICES is empty", "ask for GPUs (--gpus-per-node), or unset it")
        else:
            yield Finding("devices", NOTE, "no GPU here: a run would compute on the processor")
        return
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        try:
            works = float(torch.ones(64, device=f"cuda:{index}").sum()) == 64.0
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            remedy = f"leave the device out (CUDA_VISIBLE_DEVICES), and report {platform.node()} to its administrators"
            yield Finding(f"GPU {index}", FAULT, f"{facts.name} does not compute: {reason}", remedy)
            continue
        low = "bf16" if torch.cuda.is_bf16_supported() else "no bf16: set train.amp.precision=fp16"
        yield Finding(f"GPU {index}", OK if works else FAULT, f"{facts.name}, {facts.total_memory / GIB:.0f} GiB, {low}")


def check_limits() -> Iterator[Finding]:
    """Cores, memory, shared memory and open files."""
    cores = allowed()
    yield Finding("cores", OK, f"{len(cores)} for this process ({ranges(cores)}) of {os.cpu_count()}")
    yield Finding("memory", OK, f"{memory_gib():.0f} GiB for all processes of this machine")
    shm = shutil.disk_usage("/dev/shm").free / GIB if Path("/dev/shm").is_dir() else 0.0
    if shm < SHARED_MEMORY_GIB:
        remedy = "start the container with --shm-size=16g or --ipc=host, or set dataloader.train.num_workers=0"
        yield Finding(
            "shared memory", WARNING, f"{shm:.2f} GiB free in /dev/shm, which loader workers hand batches over in", remedy
        )
    else:
        yield Finding("shared memory", OK, f"{shm:.0f} GiB free in /dev/shm")
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < OPEN_FILES:
        yield Finding("open files", WARNING, f"at most {files} a process", f"`ulimit -n {OPEN_FILES}` in the job's set-up lines")


def ranges(numbers: list[int]) -> str:
    """0, 1, 2, 5 -> "0-2,5"."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1][-1:] = [number] if len(parts[-1]) > 1 else [parts[-1][0], number]
        else:
            parts.append([number])
    return ",".join("-".join(map(str, part)) for part in parts)


def memory_gib() -> float:
    """What this machine has, or what SLURM or a container allows of it."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    limits = [total]
    if re.fullmatch(r"\d+", asked := os.environ.get("SLURM_MEM_PER_NODE", "")) and int(asked):
        limits.append(int(asked) / 1024)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(file).is_file() and (text := Path(file).read_text().strip()).isdigit():
            limits.append(int(text) / GIB)
    return min(limits)
