"""EVA-02-S from pre-training to ImageNet-1K at 336 px (Table 25).

Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/s_in1k_336.py \
    --num-gpus 8 train.init_checkpoint=eva02_S_pt_in21k_p14.pt
GPUs: the published batch is split over the processes, train.accumulate where memory is short; hours not stated, not measured.
Data: imagenet/train and imagenet/val in class folders.
Expected: top-1 85.780 on ImageNet-1K val, plain weights.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from .....configs.common.classification import IN1K_CLASSES, classifier, finetune_optimizer, finetune_train
from .ti_in1k_336 import dataloader, normalise, schedule

model = classifier("S", image_size=336, num_classes=IN1K_CLASSES, drop_path_rate=0.10)
optimizer = finetune_optimizer(1e-4, 0.80)
train = finetune_train(100, 1024, label_smoothing=0.1, output_dir="output/s_in1k_336")
