"""Linear probe and nearest neighbours on ImageNet-1K with the frozen features of a student.

Command: tools/probe_classifier.py --student FOLDER --train DIR --val DIR; or --config-file and overrides
GPUs: 1 or more for the features; hours not measured. Data: imagenet/train (1.28 M images), imagenet/val. No published score.
"""

from detectron2.config import LazyCall as L
from omegaconf import OmegaConf

from eva02_det.data.paths import datasets_root
from eva02_mim.crops import RandomCrop
from eva02_mim.labelled import EvaluationCrop, class_folder
from eva02_mim.linear import STRENGTHS, LinearSolver
from eva02_mim.neighbours import NearestNeighbours
from eva02_mim.readout import load_readout

# mean of the patches: a student is taught on these, never on its class token
readout = L(load_readout)(source="output/pretrain_b/exported", image_size=None, pool="mean", norm="tokens")
dataloader = OmegaConf.create(
    {
        "train": None,
        "validation": None,
        "augmented_passes": 0,  # 0: the central crop of each image; else so many random crops of it
        "workers": 10,  # processes of each rank
    },
    flags={"allow_objects": True},
)
dataloader.train = L(class_folder)(root=str(datasets_root() / "imagenet/train"))
dataloader.validation = L(class_folder)(root=str(datasets_root() / "imagenet/val"))
dataloader.crop = L(EvaluationCrop)(crop_ratio=224 / 256, interpolation="bicubic")
dataloader.augment = L(RandomCrop)(area=[0.08, 1.0], shape=[3 / 4, 4 / 3], flip=0.5)
solver = L(LinearSolver)(
    l2=list(STRENGTHS), held_out=0.1, tolerance=1e-3, max_iterations=1000, precision="fp32", seed="${train.seed}"
)
neighbours = L(NearestNeighbours)(k=20, temperature=0.07)  # null: none
train = OmegaConf.create(
    {
        "output_dir": "output/probe",
        "device": "auto",
        "precision": "bf16",  # of the network
        "batch": 256,  # images at once in each process
        "seed": 0,  # of random crops and of the images held out
    }
)
