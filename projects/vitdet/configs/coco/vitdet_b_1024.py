"""ViTDet with plain ViT-B on COCO at 1024 px, windows of 14, from MAE: the other side of the comparison in Table 13a.

Command: tools/lazyconfig_train_net.py --config-file projects/vitdet/configs/coco/vitdet_b_1024.py --num-gpus 8
GPUs: 64 A100, one image each; 0.362 s an image, so about 1190 GPU hours (published, detectron2's projects/ViTDet).
Expected: box AP 54.0, mask AP 46.7 on val2017 (published there, model id 325358525).
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn
from .....configs.common.optim import step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings
from .....configs.common.vitdet import plain_vit, vitdet_adamw

PIXELS, BATCH = 1024, 64
STEPS = 184_375  # 184 375 x 64 images = 99.8 passes over the 118 287 of train2017

model = cascade_mask_rcnn(plain_vit("B", image_size=PIXELS, drop_path_rate=0.1), num_classes=80, image_size=PIXELS)
dataloader = lsj_dataloader("coco_2017", pixels=PIXELS, batch_size=BATCH)
optimizer = vitdet_adamw(1e-4, depth=12, layer_decay=0.7)
lr_multiplier = step_schedule(STEPS, milestones=(163_889, 177_546), warmup=250)
train = train_settings(STEPS, init_checkpoint="timm/vit_base_patch16_224.mae", amp="fp16")
protocol = tested_as("plain", model=model, dataloader=dataloader, train=train)
