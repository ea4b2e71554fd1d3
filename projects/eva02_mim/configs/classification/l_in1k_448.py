"""EVA-02-L of Merged-38M from pre-training to ImageNet-1K at 448 px (Table 25).

Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/l_in1k_448.py \
    --num-gpus 8 train.init_checkpoint=eva02_L_pt_m38m_p14.pt
GPUs: the published batch is split over the processes, train.accumulate where memory is short; hours not stated, not measured.
Data: imagenet/train and imagenet/val in class folders.
Expected: top-1 89.570 on ImageNet-1K val, averaged weights.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from .....configs.common.classification import IN1K_CLASSES, classifier, finetune_optimizer, finetune_train
from .b_in1k_448 import dataloader, normalise, schedule

model = classifier("L", image_size=448, num_classes=IN1K_CLASSES, drop_path_rate=0.15)
optimizer = finetune_optimizer(7e-5, 0.80)
train = finetune_train(30, 1024, label_smoothing=0.2, output_dir="output/l_in1k_448")
