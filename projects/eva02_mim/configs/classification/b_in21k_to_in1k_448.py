"""EVA-02-B from its ImageNet-21K classifier to ImageNet-1K at 448 px (Table 24).

Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/b_in21k_to_in1k_448.py \
    --num-gpus 8 train.init_checkpoint=output/b_in21k_448/checkpoint_N.pt
GPUs: the published batch is split over the processes, train.accumulate where memory is short; hours not stated, not measured.
Data: imagenet/train and imagenet/val in class folders.
Expected: top-1 88.570 on ImageNet-1K val, averaged weights.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from .....configs.common.classification import IN1K_CLASSES, classifier, finetune_optimizer, finetune_schedule, finetune_train
from .ti_in1k_336 import dataloader, normalise

model = classifier("B", image_size=448, num_classes=IN1K_CLASSES, drop_path_rate=0.15)
optimizer = finetune_optimizer(5e-5, 0.80)
schedule = finetune_schedule(warmup_epochs=2)
train = finetune_train(15, 512, label_smoothing=0.2, output_dir="output/b_in21k_to_in1k_448")
