"""EVA-02-L of ImageNet-21K from pre-training to ImageNet-1K at 448 px (released command).

Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/l_in21kmim_in1k_448.py \
    --num-gpus 8 train.init_checkpoint=eva02_L_pt_in21k_p14.pt
GPUs: the published batch is split over the processes, train.accumulate where memory is short; hours not stated, not measured.
Data: imagenet/train and imagenet/val in class folders.
Expected: top-1 89.626 on ImageNet-1K val, averaged weights.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from .....configs.common.classification import finetune_optimizer, finetune_train
from .l_in1k_448 import dataloader, model, normalise, schedule

optimizer = finetune_optimizer(5e-5, 0.80)
train = finetune_train(30, 1024, label_smoothing=0.2, output_dir="output/l_in21kmim_in1k_448")
