"""The config of a detector of a few thousand weights and its short training, as `--config-file` takes it."""

from pathlib import Path

from tests.engine.small_run import small_config

STEPS = 60

config = small_config(Path("output"), STEPS, train={"ema_decay": 0.9})
model, dataloader, optimizer = config.model, config.dataloader, config.optimizer
lr_multiplier, train = config.lr_multiplier, config.train
model.backbone.net.drop_path_rate = 0.2
dataloader.train.num_workers = 1
dataloader.evaluator = None
del config
