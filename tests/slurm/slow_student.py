"""The nano student on slow images."""

from detectron2.config import LazyCall as L

from tests.slurm.slow_images import SlowImages

from ...projects.eva02_mim.configs.nano import dataloader, normalise, optimizer, schedule, student, teacher, train  # noqa: F401

dataloader.train.source = L(SlowImages)(spec="datasets/images", pause_s=0.0)
