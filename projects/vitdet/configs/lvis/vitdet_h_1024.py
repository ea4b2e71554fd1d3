"""ViTDet with plain ViT-H on LVIS v1 at 1024 px, windows of 14, from MAE: the other side of the comparison in Table 14a.

Command: tools/lazyconfig_train_net.py --config-file projects/vitdet/configs/lvis/vitdet_h_1024.py --num-gpus 8
GPUs: 64 A100, one image each; 1.100 s an image, so about 3060 GPU hours (published, detectron2's projects/ViTDet).
Expected: box AP 51.5, mask AP 46.6 on val (published there, model id 332552778; standard deviation over seeds 0.3).
Weight decay on every parameter, as published. MAE's patches of 14 are resized to 16 when loaded.
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn, federated_loss
from .....configs.common.optim import step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings
from .....configs.common.vitdet import plain_vit, vitdet_adamw

PIXELS, BATCH = 1024, 64
STEPS = 156_250  # 156 250 x 64 images = 99.8 passes over the 100 170 of LVIS v1 train

model = cascade_mask_rcnn(
    plain_vit("H", image_size=PIXELS, drop_path_rate=0.4),
    num_classes=1203,
    image_size=PIXELS,
    class_loss=federated_loss("lvis_v1_train"),
    limits=(0.02, 300),
)
dataloader = lsj_dataloader("lvis_v1", pixels=PIXELS, batch_size=BATCH, repeat_threshold=0.001)
optimizer = vitdet_adamw(1e-4, depth=32, layer_decay=0.9, exempt=False)
lr_multiplier = step_schedule(STEPS, milestones=(138_889, 150_463), warmup=250)
train = train_settings(STEPS, init_checkpoint="timm/vit_huge_patch14_224.mae", amp="fp16")
train.eval_period = 30_000
protocol = tested_as("lvis_plain", model=model, dataloader=dataloader, train=train)
