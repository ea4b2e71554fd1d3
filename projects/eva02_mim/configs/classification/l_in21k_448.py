"""EVA-02-L of Merged-38M as a classifier of ImageNet-21K at 448 px, before ImageNet-1K (Table 23).

Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/l_in21k_448.py \
    --num-gpus 8 train.init_checkpoint=eva02_L_pt_m38m_p14.pt
GPUs: the published batch is split over the processes, train.accumulate where memory is short; hours not stated, not measured.
Data: imagenet-21k, 14.2 M images of 21,841 classes in class folders; no evaluation.
Expected: no number of its own; 89.974 on ImageNet-1K after l_in21k_to_in1k_448.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from .....configs.common.classification import IN21K_CLASSES, classifier, finetune_optimizer, finetune_train
from .b_in21k_448 import dataloader, normalise, schedule

model = classifier("L", image_size=448, num_classes=IN21K_CLASSES, drop_path_rate=0.15)
optimizer = finetune_optimizer(3e-4, 0.75)
train = finetune_train(30, 2048, label_smoothing=0.1, ema_decay=None, output_dir="output/l_in21k_448")
