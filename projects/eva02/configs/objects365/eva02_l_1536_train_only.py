"""EVA-02-L on the training set of Objects365 v2 alone, so that val measures something; else eva02_l_1536.py.

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/objects365/eva02_l_1536_train_only.py --num-gpus 8
GPUs: not published; fewer GPUs or less memory are made up for by accumulation (train.memory_gib).
Expected: no published counterpart.
For the in21k arm add train.init_checkpoint=hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L_pt_in21k_p14to16.pt
"""

from .eva02_l_1536 import dataloader, lr_multiplier, model, optimizer, protocol, train

dataloader.train.dataset.names = "objects365_train"  # 400 000 x 160 images = 36.7 passes over its 1 742 289
