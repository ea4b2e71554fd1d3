"""EVA-02-S on LVIS v1 at 1024 px, windows of 16: the recipe of EVA-02-B (Table 29) for a small model.

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/lvis/eva02_s_1024.py --num-gpus 8
GPUs: not published; fewer GPUs or less memory are made up for by accumulation (train.memory_gib).
Expected: no published counterpart. The decay over the layers is that of this size in classification; nothing is tuned.
The file has patches of 14 pixels; they are resized to 16 when it is loaded.
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn, federated_loss, trv
from .....configs.common.optim import adamw, step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings

PIXELS, BATCH = 1024, 128
STEPS = 50_000  # 50 000 x 128 images = 63.9 passes over the 100 170 of LVIS v1 train
INIT = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_S_pt_in21k_p14.pt"

model = cascade_mask_rcnn(
    trv("S", window_size=16, num_global=4, drop_path_rate=0.1),
    num_classes=1203,
    image_size=PIXELS,
    class_loss=federated_loss("lvis_v1_train"),
    limits=(0.02, 300),
)
dataloader = lsj_dataloader("lvis_v1", pixels=PIXELS, batch_size=BATCH, repeat_threshold=0.001)
optimizer = adamw(1e-4, depth=12, layer_decay=0.8)
lr_multiplier = step_schedule(STEPS, milestones=(40_000, 45_000))
train = train_settings(STEPS, init_checkpoint=INIT, amp="fp16")
protocol = tested_as("lvis_plain", model=model, dataloader=dataloader, train=train)
