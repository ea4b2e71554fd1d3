"""Packages and dependencies; each dependency carries its reason and its licence."""

from pathlib import Path

from setuptools import find_namespace_packages, find_packages, setup

CORE = [
    "torch>=2.6",  # tensors, distributed training; BSD-3
    "torchvision>=0.21",  # RoIAlign and hard NMS kernels; BSD-3
    "numpy>=1.26",  # arrays on the host; BSD-3
    "pillow>=10",  # decoding and resizing with the published filter; MIT-CMU
    "safetensors>=0.4.3",  # weights without code, mapped instead of read; Apache-2.0
    "huggingface-hub>=0.24",  # published checkpoints by name, cached; Apache-2.0
    "fvcore>=0.1.5",  # transforms, schedules, checkpointer that the Detectron2 API is made of; Apache-2.0
    "iopath>=0.1.9",  # file paths of the Detectron2 API; MIT
    "omegaconf>=2.1",  # the tree behind LazyConfig; BSD-3
    "hydra-core>=1.1",  # the grammar of a.b.c=value overrides; MIT
    "cloudpickle>=2",  # configs with objects that YAML cannot hold; BSD-3
    "pycocotools>=2.0.8",  # run-length masks and the reference evaluation; BSD-2
    "hotcoco>=1.3",  # COCO's and LVIS's evaluation from arrays, seconds where the references take an hour; MIT
    "faster-coco-eval>=1.6",  # COCO's evaluation by other hands, to check against; Apache-2.0
    "shapely>=2",  # fvcore clips polygons with it; BSD-3
    "tensorboard>=2.14",  # training curves; Apache-2.0
    "tabulate>=0.9",  # tables in logs; MIT
    "termcolor>=2",  # coloured log prefixes; MIT
]
ONNX = [
    "onnx>=1.17",  # the file format; Apache-2.0
    "onnxscript>=0.5",  # torch's exporter writes with it; MIT
    "onnxruntime>=1.20",  # runs the file, to compare it with torch; MIT
]
EXTRAS = {
    "xformers": ["xformers>=0.0.29"],  # another attention kernel; BSD-3
    "mim": [
        "timm>=1.0.12",  # teachers and towers for pre-training; Apache-2.0
        "open_clip_torch>=2.30",  # further teachers, by the names of their CLIP models; MIT
        "fsspec[http]>=2024.2",  # image shards on remote storage; BSD-3, its http needs aiohttp under Apache-2.0
    ],
    "parquet": ["pyarrow>=15"],  # lists of images in parquet files; Apache-2.0
    "launch": ["submitit>=1.5"],  # jobs on SLURM; MIT
    "wandb": ["wandb>=0.19"],  # curves on a server, offline by default; MIT
    "report": [
        "supervision>=0.25",  # drawing of boxes and masks; MIT
        "matplotlib>=3.8",  # drawing of curves; licence of the PSF's kind
        "av>=14.2",  # reading and writing videos; BSD-3, its wheels carry FFmpeg under LGPL-3 with libx264 under GPL-2
    ],
    "contamination": [
        "ijson>=3.3",  # annotation files of gigabytes read as a stream; BSD-3
        "faiss-cpu>=1.9",  # nearest embeddings of two sets of images; MIT
        "fsspec[http]>=2024.2",  # image shards on remote storage; BSD-3
    ],
    "onnx": ONNX,
    "lvis": ["lvis>=0.5.3"],  # LVIS's reference evaluation; BSD-2
    "bench": ["imagededup>=0.3.3"],  # the peer that benchmarks/bm_fingerprints.py runs beside; Apache-2.0
    "dev": [
        "pytest>=8",  # MIT
        "pytest-xdist>=3.6",  # one worker per core; MIT
        "ruff>=0.9",  # MIT
        "mypy>=1.13",  # MIT
        "submitit>=1.5",  # jobs in tests; MIT
        "timm>=1.0.12",  # independent reference of the backbone; Apache-2.0
        "open_clip_torch>=2.30",  # teachers in tests; MIT
        "webdataset>=1.0",  # independent reference of the image shards; BSD-3
        "fsspec[http]>=2024.2",  # image shards on remote storage; BSD-3
        "pyarrow>=15",  # lists of images in parquet files; Apache-2.0
        "lvis>=0.5.3",  # independent reference of the LVIS evaluation; BSD-2
        "ijson>=3.3",  # annotation files of gigabytes read as a stream; BSD-3
        "faiss-cpu>=1.9",  # nearest embeddings in tests; MIT
        "wandb>=0.19",  # runs go on under their id, proved with the package itself, offline; MIT
        *ONNX,
        "setuptools>=68",  # the wheel test builds one; MIT
        "wheel>=0.43",  # MIT
    ],
}

setup(
    name="eva02-det",
    version="0.1.0",
    description="Detection and instance segmentation with EVA-02 plain vision transformers on the Detectron2 API",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    # d2lite/ has no __init__: its one package, detectron2, is put on the path only where no official one is installed
    packages=find_packages(include=["eva02_det", "eva02_det.*", "eva02_mim", "eva02_mim.*"])
    + find_namespace_packages(include=["d2lite", "d2lite.*"]),
    install_requires=CORE,
    extras_require=EXTRAS,
)
