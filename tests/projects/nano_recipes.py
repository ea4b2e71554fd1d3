"""Published recipes cut down to sizes that train on a CPU in seconds; what a recipe decides stays as it is."""

from pathlib import Path

from omegaconf import DictConfig

from eva02_det.engine.recipe import load_recipe
from tests.configs.recipes import CONFIGS

PIXELS, WIDTH, DEPTH, CHANNELS, FEATURES, STEPS = 128, 48, 4, 16, 32, 30
CLASSES = 80  # of the small data sets in COCO's, LVIS's and Objects365's form alike


def nano_recipe(name: str, output_dir: Path, *, init: str = "", steps: int = STEPS) -> DictConfig:
    """The recipe `name`, such as coco/eva02_b_1024, with a small network, small images, two images and few steps.

    Kept: feed-forward kind, the share of global blocks, drop path, checkpointing of activations, losses, protocol,
    sampler, schedule's form, averaging, new weights. The learning rate grows, so that a few steps show something.
    """
    config = load_recipe(CONFIGS / f"{name}.py")
    _shrink_backbone(config)
    _shrink_heads(config.model)
    _shrink_run(config, steps)
    _shrink_schedule(config.lr_multiplier.scheduler, steps)
    config.optimizer.lr = config.optimizer.params.base_lr = 1e-3
    config.optimizer.params.lr_factor_func.depth = DEPTH
    config.train.output_dir, config.train.init_checkpoint = str(output_dir), init
    config.train.device, config.train.amp.enabled = "cpu", False
    return config


def _shrink_backbone(config: DictConfig) -> None:
    net = config.model.backbone.net
    every = net.depth // len(net.global_block_indexes)  # of so many blocks one is global
    net.embed_dim, net.depth, net.num_heads = WIDTH, DEPTH, 3
    net.global_block_indexes = list(range(min(every, DEPTH) - 1, DEPTH, min(every, DEPTH)))
    net.window_size = max(2, net.window_size // 8)
    config.model.backbone.out_channels, config.model.backbone.square_pad = CHANNELS, PIXELS


def _shrink_heads(model: DictConfig) -> None:
    proposals, heads = model.proposal_generator, model.roi_heads
    proposals.head.in_channels = CHANNELS
    proposals.anchor_generator.sizes = [[8], [16], [32], [64], [96]]
    proposals.pre_nms_topk, proposals.post_nms_topk, proposals.batch_size_per_image = [100, 60], [60, 8], 64
    heads.num_classes, heads.batch_size_per_image = CLASSES, 32
    for head in heads.box_heads:
        head.input_shape.channels, head.conv_dims, head.fc_dims = CHANNELS, [CHANNELS] * len(head.conv_dims), [FEATURES]
    for predictor in heads.box_predictors:
        predictor.input_shape.channels = FEATURES
    if heads.get("mask_head") is not None:
        heads.mask_head.input_shape.channels = CHANNELS
        heads.mask_head.conv_dims = [CHANNELS] * len(heads.mask_head.conv_dims)


def _shrink_run(config: DictConfig, steps: int) -> None:
    for loader in (config.dataloader.train, config.dataloader.test):
        loader.mapper.augmentations.pixels, loader.num_workers = PIXELS, 0
    config.dataloader.train.total_batch_size = 2
    config.dataloader.test.dataset.first, config.dataloader.evaluator.seen_only = 10, True
    config.train.max_iter = config.train.eval_period = config.train.checkpointer.period = steps
    config.train.log_period = 1


def _shrink_schedule(scheduler: DictConfig, steps: int) -> None:
    if "num_updates" in scheduler:
        scheduler.milestones = [steps * one // scheduler.num_updates for one in scheduler.milestones]
        scheduler.num_updates = steps
