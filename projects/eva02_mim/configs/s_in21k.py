"""EVA-02-S on ImageNet-21K for 240 epochs (Tables 5 and 22): the recipe of Ti with another student.

Command: tools/pretrain.py --config-file projects/eva02_mim/configs/s_in21k.py --num-gpus 8, or torchrun on several machines
GPUs: 40 with 100 images each in the published run; hours not stated, not measured.
Data: imagenet-21k, 14.2 M images: 3,550 steps an epoch, 852,000 in all; validation on imagenet/val.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from ....configs.common.mim import mim_student, mim_train
from .ti_in21k import dataloader, normalise, optimizer, schedule, teacher

student = mim_student("S")
train = mim_train(240, 4000, output_dir="output/pretrain_s")
