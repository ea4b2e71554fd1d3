"""EVA-02-B on COCO at 1024 px, windows of 16: head-to-head comparison (Tables 13a and 28).

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/coco/eva02_b_1024.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 55.5, mask AP 47.1 on val2017 (published: 55.5017 and 47.0794, eva02_B_coco_bsl.pth).
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn, trv
from .....configs.common.optim import adamw, step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings

PIXELS, BATCH = 1024, 128
STEPS = 60_000  # 60 000 x 128 images = 64.9 passes over the 118 287 of train2017
INIT = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_B_pt_in21k_p14to16.pt"

model = cascade_mask_rcnn(
    trv("B", window_size=16, num_global=4, drop_path_rate=0.1),
    num_classes=80,
    image_size=PIXELS,
)
dataloader = lsj_dataloader("coco_2017", pixels=PIXELS, batch_size=BATCH)
optimizer = adamw(5e-5, depth=12, layer_decay=0.7)
lr_multiplier = step_schedule(STEPS, milestones=(48_000, 54_000))
train = train_settings(STEPS, init_checkpoint=INIT, amp="fp16")
protocol = tested_as("plain", model=model, dataloader=dataloader, train=train)
