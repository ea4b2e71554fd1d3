"""EVA-02-B on ImageNet-21K for 150 epochs (Tables 5 and 22).

Command: tools/pretrain.py --config-file projects/eva02_mim/configs/b_in21k.py --num-gpus 8, or torchrun on several machines
GPUs: 32 with 64 images each in the published run; hours not stated, not measured.
Data: imagenet-21k, 14.2 M images: 6,933 steps an epoch, 1.04 M in all; validation on imagenet/val.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from ....configs.common.mim import (
    mim_dataloader,
    mim_optimizer,
    mim_schedule,
    mim_student,
    mim_teacher,
    mim_train,
    pixel_statistics,
)
from ....configs.common.mim_data import image_source, imagenet_21k

student = mim_student("B")
teacher = mim_teacher()
normalise = pixel_statistics()
dataloader = mim_dataloader(imagenet_21k(), image_source("imagenet/val"))
optimizer = mim_optimizer(1.5e-3)
schedule = mim_schedule(warmup_epochs=1)
train = mim_train(150, 2048, output_dir="output/pretrain_b")
