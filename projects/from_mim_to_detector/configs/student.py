"""A nano student that learns from unlabelled rendered scenes what the scene teacher sees in their hidden patches.

Command: tools/pretrain.py --config-file projects/from_mim_to_detector/configs/student.py
dataloader.train.source.spec=FOLDER teacher.weights=FILE; `run.py` of this project makes both and gives the command.
"""

from detectron2.config import LazyCall as L

from eva02_det.utils.sources.files import open_source
from eva02_mim.student import MimStudent
from projects.from_mim_to_detector.teacher import WIDTH, scene_teacher

from ....configs.common.mim import PATCH, mim_dataloader, mim_optimizer, mim_schedule, mim_train, pixel_statistics

GRID = 8  # patches of a side, as in the detector
EPOCHS, BATCH = 24, 16  # small batches: what a short run lacks is steps

student = L(MimStudent)(
    embed_dim=192,
    depth=6,
    num_heads=3,
    target_dim=WIDTH,
    patch_size=PATCH,
    image_size=GRID * PATCH,
    patch_gradient=1.0,  # a short run has no time for a slow patch projection
)
teacher = L(scene_teacher)(weights="teacher.pt")
normalise = pixel_statistics()
dataloader = mim_dataloader(L(open_source)(spec="scenes"), workers=0)
dataloader.train.image_size = GRID * PATCH
dataloader.train.masks.update({"grid": GRID, "count": 26, "min_block": 4})  # 41 % of 64 patches
dataloader.train.crop.area = [0.6, 1.0]
optimizer = mim_optimizer(1e-3)
schedule = mim_schedule(warmup_epochs=0.5)
train = mim_train(EPOCHS, BATCH)
train.log_period = 50
train.checkpoints.update({"period": 250, "keep": 1})
