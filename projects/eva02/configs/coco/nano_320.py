"""A nano EVA-02 detector on COCO at 320 px: a first run that fits any GPU, and a CPU for a few steps.

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/coco/nano_320.py
No published counterpart; the recipe is that of Table 28 with a smaller model, batch and image.
"""

from detectron2.config import LazyCall as L

from eva02_det.modeling.vit import Positions, TrV

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn
from .....configs.common.optim import adamw, step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings

PIXELS, BATCH, DEPTH = 320, 16, 6
STEPS = 90_000  # 90 000 x 16 images = 12.2 passes over the 118 287 of train2017

net = L(TrV)(
    embed_dim=192,
    depth=DEPTH,
    num_heads=3,
    window_size=10,
    global_block_indexes=[2, 5],
    drop_path_rate=0.0,
    positions=L(Positions)(pretrain_grid=20, cls_token=False),
)
model = cascade_mask_rcnn(
    net,
    num_classes=80,
    image_size=PIXELS,
    channels=64,
    heads=HeadSizes(box_convs=1, box_width=256, mask_convs=2),
    proposals=Proposals(anchor_sizes_px=(16, 32, 64, 128, 256), pre_nms_topk=(500, 500), post_nms_topk=(256, 256)),
)
model.roi_heads.batch_size_per_image = 128
dataloader = lsj_dataloader("coco_2017", pixels=PIXELS, batch_size=BATCH)
optimizer = adamw(2e-4, depth=DEPTH)
lr_multiplier = step_schedule(STEPS, milestones=(72_000, 81_000))  # 80 % and 90 %
train = train_settings(STEPS, period=5000)
protocol = tested_as("plain", model=model, dataloader=dataloader, train=train)
