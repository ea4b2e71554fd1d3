"""The contaminated arm of Table 20 at 1024 px: EVA-02-L from Merged-38M, which holds images of LVIS val.

Command: tools/lazyconfig_train_net.py --config-file projects/contamination/configs/lvis_m38m.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 55.34, mask AP 48.74 on LVIS v1 val (paper; no checkpoint was released).
The recipe is projects/eva02/configs/lvis/eva02_l_1024_m38m.py; its predictions go to a folder of their own.
"""

from ...eva02.configs.lvis.eva02_l_1024_m38m import dataloader, lr_multiplier, model, optimizer, protocol, train

train.output_dir = "output/contamination/lvis_m38m"
