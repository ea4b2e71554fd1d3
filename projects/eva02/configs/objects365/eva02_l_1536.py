"""EVA-02-L on Objects365 v2 at 1536 px, boxes only, from Merged-38M: the start of the COCO system (Table 27).

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/objects365/eva02_l_1536.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 50.57 on the Objects365 test set (paper, appendix A.3), which is not public; val is training data here.
As released this trains on train AND val. eva02_l_1536_train_only.py keeps val apart; eva02_l_1536_in21k.py starts from IN-21K.
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn, trv
from .....configs.common.optim import adamw, step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings

PIXELS, BATCH = 1536, 160
STEPS = 400_000  # 400 000 x 160 images = 35.1 passes over the 1 822 289 of train + val
INIT = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L_pt_m38m_p14to16.pt"

model = cascade_mask_rcnn(
    trv("L", window_size=16, num_global=8, drop_path_rate=0.4),
    num_classes=365,
    image_size=PIXELS,
    masks=False,
)
dataloader = lsj_dataloader("objects365", pixels=PIXELS, batch_size=BATCH, train="objects365_trainval", masks=False)
optimizer = adamw(6e-5, depth=24, layer_decay=0.8)
lr_multiplier = step_schedule(STEPS, milestones=(320_000, 360_000), warmup=5000)
train = train_settings(STEPS, period=10_000, init_checkpoint=INIT, amp="fp16")
protocol = tested_as("plain", model=model, dataloader=dataloader, train=train)
