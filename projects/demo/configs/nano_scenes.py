"""A nano EVA-02 detector for the rendered scenes of `make demo`: minutes on two CPU cores.

Command: DETECTRON2_DATASETS=DIR tools/lazyconfig_train_net.py --config-file projects/demo/configs/nano_scenes.py,
where DIR holds `scenes/`, written by `projects/demo/scenes.py --out DIR/scenes`.
"""

from detectron2.config import LazyCall as L

from eva02_det.modeling.vit import Positions, TrV

from ....configs.common.data import lsj_dataloader
from ....configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn
from ....configs.common.optim import adamw, cosine_schedule
from ....configs.common.train import train_settings

PIXELS, BATCH, STEPS = 192, 8, 1250  # 10 passes over 1,000 scenes

net = L(TrV)(
    embed_dim=192,
    depth=6,
    num_heads=3,
    window_size=6,
    global_block_indexes=[2, 5],
    positions=L(Positions)(pretrain_grid=12, cls_token=False),
)
model = cascade_mask_rcnn(
    net,
    num_classes=5,
    image_size=PIXELS,
    channels=48,
    heads=HeadSizes(box_convs=1, box_width=128, mask_convs=2),
    proposals=Proposals(anchor_sizes_px=(12, 24, 48, 96, 160), pre_nms_topk=(200, 200), post_nms_topk=(64, 100)),
)
model.proposal_generator.head.conv_dims = [-1]
model.roi_heads.batch_size_per_image = 16
model.roi_heads.positive_fraction = 0.5
model.proposal_generator.batch_size_per_image = 128

dataloader = lsj_dataloader(
    "scenes", pixels=PIXELS, batch_size=BATCH, workers=0, test_workers=0, mask_format="bitmask", scale=(0.8, 1.25)
)
optimizer = adamw(7e-4, depth=6, weight_decay=0.05)
lr_multiplier = cosine_schedule(STEPS, warmup=100)
train = train_settings(STEPS, period=STEPS)
train.clip_grad_norm = 1.0
