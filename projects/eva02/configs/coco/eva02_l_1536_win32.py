"""EVA-02-L on COCO at 1536 px, windows of 32: system-level comparison (Tables 14b and 30).

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/coco/eva02_l_1536_win32.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 62.3, mask AP 53.8 on val2017 (published: 62.2848 and 53.8006, eva02_L_coco_sys.pth).
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn, trv
from .....configs.common.optim import adamw, step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings

PIXELS, BATCH = 1536, 128
STEPS = 60_000  # 60 000 x 128 images = 64.9 passes over the 118 287 of train2017
INIT = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L_pt_m38m_p14to16.pt"

model = cascade_mask_rcnn(
    trv("L", window_size=32, num_global=8, drop_path_rate=0.4, use_act_checkpoint=True),
    num_classes=80,
    image_size=PIXELS,
)
dataloader = lsj_dataloader("coco_2017", pixels=PIXELS, batch_size=BATCH)
optimizer = adamw(5e-5, depth=24, layer_decay=0.8)
lr_multiplier = step_schedule(STEPS, milestones=(48_000, 54_000))
train = train_settings(STEPS, init_checkpoint=INIT, amp="fp16")
protocol = tested_as("coco_system", model=model, dataloader=dataloader, train=train)
