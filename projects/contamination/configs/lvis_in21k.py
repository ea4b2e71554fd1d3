"""The clean arm of Table 20 at 1024 px: EVA-02-L from IN-21K, which holds no image of LVIS val.

Command: tools/lazyconfig_train_net.py --config-file projects/contamination/configs/lvis_in21k.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 55.2866, mask AP 48.5964 on LVIS v1 val (published, eva02_L_lvis_bsl.pth).
The recipe is projects/eva02/configs/lvis/eva02_l_1024.py; its predictions go to a folder of their own.
"""

from ...eva02.configs.lvis.eva02_l_1024 import dataloader, lr_multiplier, model, optimizer, protocol, train

train.output_dir = "output/contamination/lvis_in21k"
