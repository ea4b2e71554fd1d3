"""EVA-02-L on ImageNet-21K for 150 epochs, released beside the one on Merged-38M (specification 5.2).

Command: tools/pretrain.py --config-file projects/eva02_mim/configs/l_in21k.py --num-gpus 8, or torchrun on several machines
GPUs: 64 with 32 images each in the published run; hours not stated, not measured.
Data: imagenet-21k, 14.2 M images: 6,933 steps an epoch, 1.04 M in all; validation on imagenet/val.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
The published results on LVIS start from this one: Merged-38M holds COCO's images, and with them most of LVIS val.
"""

from ....configs.common.mim import mim_dataloader, mim_train
from ....configs.common.mim_data import image_source, imagenet_21k
from .l_merged38m import normalise, optimizer, schedule, student, teacher

dataloader = mim_dataloader(imagenet_21k(), image_source("imagenet/val"))
train = mim_train(150, 2048, parallel="fsdp", output_dir="output/pretrain_l_in21k")
