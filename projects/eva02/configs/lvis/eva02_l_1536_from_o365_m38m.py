"""EVA-02-L on LVIS v1 from Objects365 from Merged-38M: the contaminated arm beside eva02_l_1536_from_o365.py (Table 20).

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/lvis/eva02_l_1536_from_o365_m38m.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 65.42, mask AP 57.42 on val (paper; no checkpoint or config was released).
All else is as in eva02_l_1536_from_o365.py. Merged-38M holds LVIS val images without their annotations.
"""

from .eva02_l_1536_from_o365 import dataloader, lr_multiplier, model, optimizer, protocol, train

train.init_checkpoint = "hf://Yuxin-CV/EVA-02/eva02/det/eva02_L_m38m_to_o365.pth"
