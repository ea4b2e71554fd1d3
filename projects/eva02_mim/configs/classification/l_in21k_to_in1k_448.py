"""EVA-02-L from its ImageNet-21K classifier to ImageNet-1K at 448 px (Table 24).

Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/l_in21k_to_in1k_448.py \
    --num-gpus 8 train.init_checkpoint=output/l_in21k_448/checkpoint_N.pt
GPUs: the published batch is split over the processes, train.accumulate where memory is short; hours not stated, not measured.
Data: imagenet/train and imagenet/val in class folders.
Expected: top-1 89.974 on ImageNet-1K val, averaged weights; 89.904 from the student of ImageNet-21K.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from .....configs.common.classification import IN1K_CLASSES, classifier, finetune_optimizer, finetune_train
from .b_in21k_to_in1k_448 import dataloader, normalise, schedule

model = classifier("L", image_size=448, num_classes=IN1K_CLASSES, drop_path_rate=0.15)
optimizer = finetune_optimizer(2e-5, 0.85)
train = finetune_train(20, 512, label_smoothing=0.2, output_dir="output/l_in21k_to_in1k_448")
