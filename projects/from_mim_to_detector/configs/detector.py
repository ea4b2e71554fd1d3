"""The nano detector of the demo on scenes of 128 px, from scratch or from a pre-trained student.

Command: DETECTRON2_DATASETS=DIR tools/lazyconfig_train_net.py --config-file projects/from_mim_to_detector/configs/detector.py
[train.init_checkpoint=FILE]; `run.py` of this project renders DIR/scenes, makes FILE and gives both commands.
"""

from detectron2.config import LazyCall as L

from eva02_det.modeling.vit import Positions

from ....configs.common.optim import adamw, cosine_schedule
from ....configs.common.train import train_settings
from ...demo.configs.nano_scenes import dataloader, model

PIXELS, GRID, STEPS = 128, 8, 600  # 8 x 8 patches of 16; 600 x 8 images = 24 passes over 200 scenes

model.backbone.square_pad = PIXELS
# the layout of a p14to16 file: a table of 14 x 14 positions with a class row, and angles of the student's 8 x 8
model.backbone.net.positions = L(Positions)(pretrain_grid=14, cls_token=True, rotary_grid=GRID)
model.backbone.net.window_size = GRID  # the whole map
model.proposal_generator.anchor_generator.sizes = [[12], [20], [32], [48], [64]]
for loader in (dataloader.train, dataloader.test):
    loader.mapper.augmentations.pixels = PIXELS
optimizer = adamw(7e-4, depth=6, weight_decay=0.05)
lr_multiplier = cosine_schedule(STEPS, warmup=50)
train = train_settings(STEPS, period=STEPS // 10)
train.checkpointer.max_to_keep = 1
train.clip_grad_norm = 1.0
