"""The contaminated arm of Table 20 after Objects365, at 1536 px: EVA-02-L from Merged-38M.

Command: tools/lazyconfig_train_net.py --config-file projects/contamination/configs/o365_m38m.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 65.42, mask AP 57.42 on LVIS v1 val (paper; no checkpoint was released).
The recipe is projects/eva02/configs/lvis/eva02_l_1536_from_o365_m38m.py; its predictions go to a folder of their own.
"""

from ...eva02.configs.lvis.eva02_l_1536_from_o365_m38m import dataloader, lr_multiplier, model, optimizer, protocol, train

train.output_dir = "output/contamination/o365_m38m"
