"""Masked-image-modelling pre-training of EVA-02: it makes the checkpoints that the detectors start from."""

import eva02_det  # noqa: F401  activates the detectron2 provider that the configuration files need
