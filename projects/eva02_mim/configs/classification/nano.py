"""A nano classifier from scratch: a first run on any class folders, on one CPU.

Command: tools/finetune_classifier.py --config-file projects/eva02_mim/configs/classification/nano.py --data ROOT
GPUs: none, minutes. Data: ROOT/train/<class>/<image> and ROOT/val/<class>/<image>.
Expected: no published counterpart; it shows that a setup learns, not that it learns well.
"""

from detectron2.config import LazyCall as L

from eva02_mim.classifier import Classifier

from .....configs.common.classification import (
    class_dataloader,
    finetune_optimizer,
    finetune_schedule,
    finetune_train,
    pixel_statistics,
)

model = L(Classifier)(
    embed_dim=64, depth=2, num_heads=2, num_classes=None, image_size=56, drop_path_rate=0.0, train_patch_embed=True
)
normalise = pixel_statistics()
dataloader = class_dataloader("images/train", "images/val", area=(0.5, 1.0), workers=0)
dataloader.train.crop.augment = None
optimizer = finetune_optimizer(2e-3, 0.9)
schedule = finetune_schedule(warmup_epochs=1)
train = finetune_train(20, 32, label_smoothing=0.1, ema_decay=0.98, output_dir="output/finetune_nano")
train.update({"init_checkpoint": "scratch", "precision": "fp32", "log_period": 10})
