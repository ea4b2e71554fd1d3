"""EVA-02-L on LVIS v1 at 1024 px from Merged-38M: the contaminated arm beside eva02_l_1024.py (Table 20).

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/lvis/eva02_l_1024_m38m.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 55.34, mask AP 48.74 on val (paper; no checkpoint or config was released).
All else is as in eva02_l_1024.py. Merged-38M holds LVIS val images without their annotations.
"""

from .eva02_l_1024 import dataloader, lr_multiplier, model, optimizer, protocol, train

train.init_checkpoint = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L_pt_m38m_p14to16.pt"
