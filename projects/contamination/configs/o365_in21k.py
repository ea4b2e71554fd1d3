"""The clean arm of Table 20 after Objects365, at 1536 px: EVA-02-L from IN-21K, which holds no image of LVIS val.

Command: tools/lazyconfig_train_net.py --config-file projects/contamination/configs/o365_in21k.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 65.2244, mask AP 57.3209 on LVIS v1 val (published, eva02_L_lvis_sys_o365.pth).
The recipe is projects/eva02/configs/lvis/eva02_l_1536_from_o365.py; its predictions go to a folder of their own.
"""

from ...eva02.configs.lvis.eva02_l_1536_from_o365 import dataloader, lr_multiplier, model, optimizer, protocol, train

train.output_dir = "output/contamination/o365_in21k"
