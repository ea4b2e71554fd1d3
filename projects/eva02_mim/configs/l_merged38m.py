"""EVA-02-L on Merged-38M for 56 epochs (Tables 5 and 22).

Command: tools/pretrain.py --config-file projects/eva02_mim/configs/l_merged38m.py --num-gpus 8, or torchrun on several machines
GPUs: 64 with 32 images each in the published run; hours not stated, not measured.
Data: Merged-38M, seven sources, 38 M images: 18,554 steps an epoch, 1.04 M in all; validation on imagenet/val.
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
from ....configs.common.mim_data import image_source, merged_38m

student = mim_student("L", drop_path_rate=0.1)
teacher = mim_teacher()
normalise = pixel_statistics()
dataloader = mim_dataloader(merged_38m(), image_source("imagenet/val"))
optimizer = mim_optimizer(1.5e-3)
schedule = mim_schedule(warmup_epochs=1)
train = mim_train(56, 2048, parallel="fsdp", output_dir="output/pretrain_l")
