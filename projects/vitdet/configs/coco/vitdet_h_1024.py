"""ViTDet with plain ViT-H on COCO at 1024 px, windows of 14, from MAE: the other side of the comparison in Table 14a.

Command: tools/lazyconfig_train_net.py --config-file projects/vitdet/configs/coco/vitdet_h_1024.py --num-gpus 8
GPUs: 64 A100, one image each; 1.137 s an image, so about 2800 GPU hours (published, detectron2's projects/ViTDet).
Expected: box AP 58.7, mask AP 51.0 on val2017 (published there, model id 328730692).
Shorter than B and L, and weight decay on every parameter, as published. MAE's patches of 14 are resized to 16 when loaded.
"""

from .....configs.common.data import lsj_dataloader
from .....configs.common.models import cascade_mask_rcnn
from .....configs.common.optim import step_schedule
from .....configs.common.protocols import tested_as
from .....configs.common.train import train_settings
from .....configs.common.vitdet import plain_vit, vitdet_adamw

PIXELS, BATCH = 1024, 64
STEPS = 138_281  # 184 375 x 3 // 4: 74.8 passes over the 118 287 of train2017

model = cascade_mask_rcnn(plain_vit("H", image_size=PIXELS, drop_path_rate=0.5), num_classes=80, image_size=PIXELS)
dataloader = lsj_dataloader("coco_2017", pixels=PIXELS, batch_size=BATCH)
optimizer = vitdet_adamw(1e-4, depth=32, layer_decay=0.9, exempt=False)
lr_multiplier = step_schedule(STEPS, milestones=(122_916, 133_159), warmup=188)
lr_multiplier.warmup_length = 250 / 184_375  # the share of the longer schedule, as published: 187.5 steps
train = train_settings(STEPS, init_checkpoint="timm/vit_huge_patch14_224.mae", amp="fp16")
protocol = tested_as("plain", model=model, dataloader=dataloader, train=train)
