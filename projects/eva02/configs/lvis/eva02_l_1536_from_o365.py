"""EVA-02-L on LVIS v1 at 1536 px from Objects365: the best LVIS numbers (Tables 14, 20 and 33).

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/lvis/eva02_l_1536_from_o365.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 65.2, mask AP 57.3 on val (published: 65.2244 and 57.3209, eva02_L_lvis_sys_o365.pth).
From IN-21K, which holds no LVIS val image; eva02_l_1536_from_o365_m38m.py starts from Merged-38M. Averaged weights are tested.
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn, federated_loss, trv
from .....configs.common.optim import adamw, constant_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings

PIXELS, BATCH = 1536, 64
STEPS = 70_000  # 70 000 x 64 images = 44.7 passes over the 100 170 of LVIS v1 train
INIT = "hf://Yuxin-CV/EVA-02/eva02/det/eva02_L_in21k_to_o365.pth"
NEW = (r"\.cls_score\.", r"\.fed_loss_cls_weights$", r"\.mask_head\.")  # other classes; no masks in Objects365

model = cascade_mask_rcnn(
    trv("L", window_size=16, num_global=8, drop_path_rate=0.3, use_act_checkpoint=True),
    num_classes=1203,
    image_size=PIXELS,
    class_loss=federated_loss("lvis_v1_train"),
    limits=(0.02, 300),
)
dataloader = lsj_dataloader("lvis_v1", pixels=PIXELS, batch_size=BATCH, repeat_threshold=0.001)
optimizer = adamw(4e-5, depth=24, layer_decay=0.8)
lr_multiplier = constant_schedule(STEPS, warmup=700)
train = train_settings(STEPS, init_checkpoint=INIT, new_weights=NEW, amp="fp16", ema_decay=0.9999)
protocol = tested_as("lvis_system_o365", model=model, dataloader=dataloader, train=train)
