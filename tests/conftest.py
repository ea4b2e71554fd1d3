"""Chooses the detectron2 provider before any test imports it."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")

import torch

import eva02_det  # noqa: F401  activates the provider

torch.set_num_threads(2)
