"""Chooses the detectron2 provider before any test imports it, and keeps one thread per test worker."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers share the cores; children inherit it

import torch

import eva02_det  # noqa: F401  activates the provider

torch.set_num_threads(1)
