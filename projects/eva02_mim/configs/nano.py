"""A nano student against a small seeded teacher: a first run on any folder of images, on one CPU.

Command: tools/pretrain.py --config-file projects/eva02_mim/configs/nano.py dataloader.train.source.spec=FOLDER
GPUs: none, minutes. Data: 64 images or more. No published counterpart; it shows that a setup learns, not that it learns well.
"""

from detectron2.config import LazyCall as L

from eva02_det.utils.sources.files import open_source
from eva02_mim.student import MimStudent
from eva02_mim.teacher import SeededTeacher

from ....configs.common.mim import mim_dataloader, mim_optimizer, mim_schedule, mim_train, pixel_statistics

PIXELS, WIDTH = 56, 32  # 4 x 4 patches

student = L(MimStudent)(embed_dim=128, depth=2, num_heads=4, target_dim=WIDTH, image_size=PIXELS, drop_path_rate=0.0)
teacher = L(SeededTeacher)(dim=WIDTH, width=32, depth=1, num_heads=2, image_size=PIXELS, seed=0)
normalise = pixel_statistics()
dataloader = mim_dataloader(L(open_source)(spec="datasets/images"), workers=0)
dataloader.train.image_size = PIXELS
dataloader.train.masks.update({"grid": 4, "count": 6, "min_block": 2})
optimizer = mim_optimizer(2e-3)
schedule = mim_schedule(warmup_epochs=10)
train = mim_train(300, 64, output_dir="output/pretrain_nano")
train.update({"precision": "fp32", "log_period": 20})
train.checkpoints.period = 100
