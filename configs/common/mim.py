"""Parts of the pre-training recipes: what Ti, S, B and L have in common, and the published values (Tables 5 and 22)."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from eva02_det.engine.optim import build_adamw
from eva02_mim.crops import RandomCrop
from eva02_mim.groups import decay_groups
from eva02_mim.loader import mim_loader, validation_loader
from eva02_mim.masking import BlockMasks
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD, Normalise
from eva02_mim.sizes import student_of_size
from eva02_mim.teacher import load_teacher

PATCH, PIXELS = 14, 224  # a grid of 16 x 16
TEACHER, TEACHER_WIDTH = "timm:eva_giant_patch14_clip_224.laion400m", 1024  # EVA-CLIP g/14 (specification 2)
HIDDEN = 105  # of 256 patches: 41 % at most, 40.8 % on average; Table 22 says 40 %


def mim_student(size: str, *, drop_path_rate: float = 0.0) -> DictConfig:
    """The student called Ti, S, B or L; it predicts the features of `mim_teacher`."""
    return L(student_of_size)(
        size=size,
        patch_size=PATCH,
        image_size=PIXELS,
        target_dim=TEACHER_WIDTH,
        drop_path_rate=drop_path_rate,
        patch_gradient=0.1,
        init="jax",
        attention="sdpa",
    )


def mim_teacher(dtype: str = "bf16") -> DictConfig:
    """EVA-CLIP g/14 with its projection on every patch, its weights kept in `dtype`."""
    return L(load_teacher)(source=TEACHER, dtype=dtype)


def pixel_statistics() -> DictConfig:
    """CLIP's, for teacher and student."""
    return L(Normalise)(mean=list(CLIP_MEAN), std=list(CLIP_STD))


def mim_dataloader(train: DictConfig, validation: DictConfig | None = None, *, workers: int = 10) -> DictConfig:
    """The `dataloader` node: crops and masks of the sources `train` and, for the loss under the fixed mask, `validation`.

    workers: processes of each rank. Batch size, seed, rank and world are set by the run.
    """
    sizes = {"image_size": PIXELS, "patch_size": PATCH}
    masks = L(BlockMasks)(grid=PIXELS // PATCH, count=HIDDEN, min_block=16, aspect=[0.3, 1 / 0.3], exact=False)
    crop = L(RandomCrop)(area=[0.2, 1.0], shape=[3 / 4, 4 / 3], flip=0.5)
    node = OmegaConf.create({"train": None, "validation": None}, flags={"allow_objects": True})
    node.train = L(mim_loader)(source=train, masks=masks, crop=crop, workers=workers, max_broken=0.01, **sizes)
    if validation is not None:
        node.validation = L(validation_loader)(source=validation, workers=workers, **sizes)
    return node


def mim_optimizer(peak_lr: float, *, weight_decay: float = 0.05) -> DictConfig:
    """AdamW with the betas of pre-training; no decay of vectors, biases, positions and class token (specification 6.3)."""
    return L(build_adamw)(
        # model is set when the optimiser is built
        params=L(decay_groups)(weight_decay="${..weight_decay}"),
        lr=peak_lr,
        betas=[0.9, 0.98],
        eps=1e-6,
        weight_decay=weight_decay,
        fused="auto",
    )


def mim_schedule(*, warmup_epochs: float = 1, min_lr: float = 1e-5) -> DictConfig:
    """From 0 to the optimiser's rate in `warmup_epochs`, then a cosine to `min_lr` (specification 6.2)."""
    return OmegaConf.create({"peak_lr": "${optimizer.lr}", "min_lr": min_lr, "warmup_epochs": warmup_epochs})


def mim_train(epochs: int, batch: int, *, parallel: str = "ddp", output_dir: str = "output/pretrain") -> DictConfig:
    """The `train` node. batch: images of a step, on all processes together; the learning rate does not follow it."""
    return OmegaConf.create(
        {
            "output_dir": output_dir,
            "init_checkpoint": "",  # weights to start from; a run's own checkpoints are for --resume
            "teacher_cache": "",  # folder of tools/cache_teacher.py: its features, and one fixed crop of each image
            "new_weights": [],  # regular expressions of weights that init_checkpoint need not hold
            "epochs": epochs,
            "max_steps": None,  # null: those of the epochs
            "batch": batch,
            "accumulate": 1,  # parts that a process's share of the batch is computed in, where memory is short
            "seed": 88,  # of weights, order, crops and masks
            "device": "auto",
            "precision": "bf16",  # bf16, fp16 (with a loss scale, as published) or fp32; of the student
            "parallel": parallel,  # ddp or fsdp
            "compile": False,  # torch.compile of the student's blocks
            "average": "rank",  # of hidden tokens: per process, as published, or "global"
            "clip_grad_norm": 3.0,
            "max_faults": 10,  # steps in a row that may be not finite, and are left out
            # steps; last files to stay, null for all; for good, the first after each so many steps; written beside the training
            "checkpoints": {"period": 5000, "keep": 3, "every": None, "asynchronous": False},
            "eval_period": None,  # steps; null: once an epoch
            "log_period": 50,
            # curves on Weights & Biases, once a project is named. mode: online, offline; null: WANDB_MODE, else offline
            "wandb": {"project": None, "entity": None, "name": None, "mode": None},
            "peak_tflops": None,  # of one device, for the MFU; null: known for common GPUs
        }
    )
