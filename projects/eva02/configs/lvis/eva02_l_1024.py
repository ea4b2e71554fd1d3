"""EVA-02-L on LVIS v1 at 1024 px, windows of 16: head-to-head comparison (Tables 14a, 20 and 29).

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/lvis/eva02_l_1024.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 55.3, mask AP 48.6 on val (published: 55.2866 and 48.5964, eva02_L_lvis_bsl.pth).
From IN-21K, which holds no LVIS val image; eva02_l_1024_m38m.py starts from Merged-38M.
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn, federated_loss, trv
from .....configs.common.optim import adamw, step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings

PIXELS, BATCH = 1024, 128
STEPS = 40_000  # 40 000 x 128 images = 51.1 passes over the 100 170 of LVIS v1 train
INIT = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L_pt_in21k_p14to16.pt"

model = cascade_mask_rcnn(
    trv("L", window_size=16, num_global=4, drop_path_rate=0.4),
    num_classes=1203,
    image_size=PIXELS,
    class_loss=federated_loss("lvis_v1_train"),
    limits=(0.02, 300),
)
dataloader = lsj_dataloader("lvis_v1", pixels=PIXELS, batch_size=BATCH, repeat_threshold=0.001)
optimizer = adamw(1e-4, depth=24, layer_decay=0.8)
lr_multiplier = step_schedule(STEPS, milestones=(32_000, 36_000))
train = train_settings(STEPS, init_checkpoint=INIT, amp="fp16")
protocol = tested_as("lvis_plain", model=model, dataloader=dataloader, train=train)
