"""The surroundings of a run, for its log."""

import importlib.metadata
import os
import platform
import sys

import torch
from tabulate import tabulate

__all__ = ["collect_env_info"]

PACKAGES = (
    *("torchvision", "numpy", "Pillow", "fvcore", "iopath", "omegaconf", "hydra-core"),
    *("pycocotools", "faster-coco-eval"),
)
VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "DETECTRON2_DATASETS")


def collect_env_info() -> str:
    """A table of versions and devices."""
    from detectron2 import __file__, __version__

    rows = [
        ("platform", f"{sys.platform}, {platform.machine()}, {os.cpu_count()} cores"),
        ("Python", sys.version.split()[0]),
        ("detectron2", f"{__version__} @{os.path.dirname(__file__)}"),
        ("torch", torch.__version__),
        *((name, _version(name)) for name in PACKAGES),
        ("GPUs", ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none"),
        ("CUDA of torch", torch.version.cuda or "none"),
    ]
    rows += [(name, os.environ[name]) for name in VARIABLES if name in os.environ]
    return tabulate(rows)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
