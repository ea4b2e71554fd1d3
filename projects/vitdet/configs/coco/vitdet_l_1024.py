"""ViTDet with plain ViT-L on COCO at 1024 px, windows of 14, from MAE: the other side of the comparison in Table 14a.

Command: tools/lazyconfig_train_net.py --config-file projects/vitdet/configs/coco/vitdet_l_1024.py --num-gpus 8
GPUs: 64 A100, one image each; 0.643 s an image, so about 2110 GPU hours (published, detectron2's projects/ViTDet).
Expected: box AP 57.6, mask AP 50.0 on val2017 (published there, model id 328021305).
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn
from .....configs.common.optim import step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings
from .....configs.common.vitdet import plain_vit, vitdet_adamw

PIXELS, BATCH = 1024, 64
STEPS = 184_375  # 184 375 x 64 images = 99.8 passes over the 118 287 of train2017

model = cascade_mask_rcnn(plain_vit("L", image_size=PIXELS, drop_path_rate=0.4), num_classes=80, image_size=PIXELS)
dataloader = lsj_dataloader("coco_2017", pixels=PIXELS, batch_size=BATCH)
optimizer = vitdet_adamw(1e-4, depth=24, layer_decay=0.8)
lr_multiplier = step_schedule(STEPS, milestones=(163_889, 177_546), warmup=250)
train = train_settings(STEPS, init_checkpoint="timm/vit_large_patch16_224.mae", amp="fp16")
protocol = tested_as("plain", model=model, dataloader=dataloader, train=train)
