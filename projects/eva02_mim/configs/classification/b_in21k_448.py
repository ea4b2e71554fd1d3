"""EVA-02-B as a classifier of ImageNet-21K at 448 px, between pre-training and ImageNet-1K (Table 23).

Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/b_in21k_448.py \
    --num-gpus 8 train.init_checkpoint=eva02_B_pt_in21k_p14.pt
GPUs: the published batch is split over the processes, train.accumulate where memory is short; hours not stated, not measured.
Data: imagenet-21k, 14.2 M images of 21,841 classes in class folders; no evaluation.
Expected: no number of its own; 88.570 on ImageNet-1K after b_in21k_to_in1k_448.
Published in fp16; this recipe trains in bf16 (train.precision=fp16 for the published format).
"""

from .....configs.common.classification import (
    IN21K,
    IN21K_CLASSES,
    class_dataloader,
    classifier,
    finetune_optimizer,
    finetune_schedule,
    finetune_train,
    pixel_statistics,
)

model = classifier("B", image_size=448, num_classes=IN21K_CLASSES, drop_path_rate=0.10)
normalise = pixel_statistics()
dataloader = class_dataloader(IN21K, None, area=(0.2, 1.0))
optimizer = finetune_optimizer(3e-4, 0.70)
schedule = finetune_schedule(warmup_epochs=1)
train = finetune_train(40, 2048, label_smoothing=0.1, ema_decay=None, output_dir="output/b_in21k_448")
