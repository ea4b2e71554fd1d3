"""EVA-02-S on COCO at 1024 px, windows of 16: the recipe of EVA-02-B (Table 28) for a small model.

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/coco/eva02_s_1024.py --num-gpus 8
GPUs: not published; fewer GPUs or less memory are made up for by accumulation (train.memory_gib).
Expected: no published counterpart. The decay over the layers is that of this size in classification; nothing is tuned.
The file has patches of 14 pixels; they are resized to 16 when it is loaded.
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn, trv
from .....configs.common.optim import adamw, step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings

PIXELS, BATCH = 1024, 128
STEPS = 60_000  # 60 000 x 128 images = 64.9 passes over the 118 287 of train2017
INIT = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_S_pt_in21k_p14.pt"

model = cascade_mask_rcnn(
    trv("S", window_size=16, num_global=4, drop_path_rate=0.1),
    num_classes=80,
    image_size=PIXELS,
)
dataloader = lsj_dataloader("coco_2017", pixels=PIXELS, batch_size=BATCH)
optimizer = adamw(1e-4, depth=12, layer_decay=0.8)
lr_multiplier = step_schedule(STEPS, milestones=(48_000, 54_000))
train = train_settings(STEPS, init_checkpoint=INIT, amp="fp16")
protocol = tested_as("plain", model=model, dataloader=dataloader, train=train)
