"""Parts of the classification recipes: what all fine-tuning runs have in common (Tables 23-25, specification 8)."""

from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from eva02_det.data.paths import datasets_root
from eva02_det.engine.optim import build_adamw
from eva02_mim.class_data import TrainCrop, train_loader
from eva02_mim.classifier import classifier_of_size
from eva02_mim.groups import layer_decay_groups
from eva02_mim.normalise import CLIP_MEAN, CLIP_STD, Normalise

IN21K_CLASSES, IN1K_CLASSES = 21_841, 1000
IN21K, IN1K = "imagenet-21k", "imagenet"  # folders of the data sets; the second holds train and val


def classifier(size: str, *, image_size: int, num_classes: int | None, drop_path_rate: float) -> DictConfig:
    """The classifier called Ti, S, B or L, its patch projection frozen as released. num_classes: None counts the folders."""
    return L(classifier_of_size)(
        size=size,
        num_classes=num_classes,
        image_size=image_size,
        patch_size=14,
        drop_path_rate=drop_path_rate,
        train_patch_embed=False,
        use_cls=False,
        head_init_scale=0.001,
        attention="sdpa",
    )


def pixel_statistics() -> DictConfig:
    """CLIP's, as in pre-training."""
    return L(Normalise)(mean=list(CLIP_MEAN), std=list(CLIP_STD))


def class_dataloader(train: str, validation: str | None, *, area: tuple[float, float], workers: int = 10) -> DictConfig:
    """The `dataloader` node: class folders to learn from and, unless None, to be evaluated on.

    area: share of the image that a training crop has. workers: processes of each rank. Relative folders start at the data sets'
    folder. Batch size, image size, seed, rank and world are set by the run.
    """
    crop = L(TrainCrop)(area=list(area), augment="rand-m9-mstd0.5-inc1", flip=0.5)
    node = OmegaConf.create({"train": None, "validation": None}, flags={"allow_objects": True})
    node.train = L(train_loader)(folder=str(datasets_root() / train), crop=crop, workers=workers, max_broken=0.01)
    if validation is not None:
        folder = str(datasets_root() / validation)
        node.validation = {"folder": folder, "crop_ratio": 1.0, "batch_size": 64, "workers": workers}  # batch of each process
    return node


def finetune_optimizer(peak_lr: float, layer_decay: float, *, weight_decay: float = 0.05) -> DictConfig:
    """AdamW, every layer with `layer_decay` times the rate of the next (specification 6.5)."""
    return L(build_adamw)(
        # model is set when the optimiser is built
        params=L(layer_decay_groups)(layer_decay=layer_decay, weight_decay="${..weight_decay}"),
        lr=peak_lr,
        betas=[0.9, 0.999],
        eps=1e-8,
        weight_decay=weight_decay,
        fused="auto",
    )


def finetune_schedule(warmup_epochs: float) -> DictConfig:
    """From 0 to the optimiser's rate in `warmup_epochs`, then a cosine to 0."""
    return OmegaConf.create({"peak_lr": "${optimizer.lr}", "min_lr": 0.0, "warmup_epochs": warmup_epochs})


def finetune_train(
    epochs: int, batch: int, *, label_smoothing: float, ema_decay: float | None = 0.9999, output_dir: str = "output/finetune"
) -> DictConfig:
    """The `train` node. batch: images of a step, on all processes together; the learning rate does not follow it."""
    return OmegaConf.create(
        {
            "output_dir": output_dir,
            "init_checkpoint": None,  # a pre-trained student or a classifier, or "scratch"
            "init_weights": "model",  # of it, or "ema" for averaged ones
            "new_head": False,  # draw the head anew even where the checkpoint's has as many classes
            "epochs": epochs,
            "max_steps": None,  # null: those of the epochs
            "batch": batch,
            "accumulate": 1,  # parts that a process's share of the batch is computed in, where memory is short
            "seed": 0,  # of weights, order, crops and drop path
            "device": "auto",
            "precision": "bf16",  # bf16, fp16 (with a loss scale, as published) or fp32
            "compile": False,  # torch.compile of the blocks
            "label_smoothing": label_smoothing,
            "decay_frozen": True,  # as released, weight decay shrinks the frozen patch kernel: Ti 15 %, B 0.1 % in a run
            "clip_grad_norm": None,
            "ema": {"decay": ema_decay},  # null: no average
            "max_faults": 10,  # steps in a row that may be not finite, and are left out
            # steps, null for an epoch; last files to stay, null for all; for good, the first after each so many steps; written
            # beside the training
            "checkpoints": {"period": None, "keep": 2, "every": None, "asynchronous": False},
            "eval_period": None,  # steps; null: an epoch
            "log_period": 50,
            # curves on Weights & Biases, once a project is named. mode: online, offline; null: WANDB_MODE, else offline
            "wandb": {"project": None, "entity": None, "name": None, "mode": None},
            "peak_tflops": None,  # of one device, for the MFU; null: known for common GPUs
        }
    )
