"""Eight training images learnt by heart: the quickest proof that every part of the training works on real images.

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/coco/overfit_eight_320.py
Minutes on two CPU cores; box AP >= 80 and mask AP >= 60 on the eight images themselves.
"""

from .....configs.common.optim import adamw, cosine_schedule
from .....configs.common.train import train_settings
from .nano_320 import DEPTH, dataloader, model, protocol

STEPS = 1200

model.roi_heads.batch_size_per_image = 64
dataloader.train.dataset.first = 8
dataloader.train.total_batch_size = 2
dataloader.train.num_workers = 1
dataloader.train.mapper.augmentations.scale = [1.0, 1.0]  # the images as they are
dataloader.train.mapper.augmentations.flip = 0.0
dataloader.test.dataset.names = "coco_2017_train"
dataloader.test.dataset.filter_empty = True
dataloader.test.dataset.first = 8
dataloader.test.num_workers = 0
dataloader.evaluator.seen_only = True
optimizer = adamw(5e-4, depth=DEPTH, weight_decay=0.0)
lr_multiplier = cosine_schedule(STEPS, warmup=50)
train = train_settings(STEPS, output_dir="output/overfit_eight", period=STEPS)
train.clip_grad_norm = 1.0
