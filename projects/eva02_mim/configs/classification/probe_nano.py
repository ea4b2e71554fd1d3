"""The probe of a nano student on any two folders of classes, on a CPU, in minutes.

Command: tools/probe_classifier.py --config-file projects/eva02_mim/configs/classification/probe_nano.py --train DIR --val DIR
GPUs: none. Data: root/<class>/<image>, ten images a class or more. No published counterpart.
"""

from .probe_imagenet import dataloader, neighbours, readout, solver, train

readout.source = "output/pretrain_nano/exported"
dataloader.workers = 0
train.update({"output_dir": "output/probe_nano", "precision": "fp32", "batch": 64})
