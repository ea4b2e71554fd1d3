"""EVA-02-L on Objects365 v2 at 1536 px, boxes only, from IN-21K: the start of the LVIS system (Tables 20 and 27).

Command: tools/lazyconfig_train_net.py --config-file projects/eva02/configs/objects365/eva02_l_1536_in21k.py --num-gpus 8
GPUs: 8 a machine; the number of machines is not stated. GPU hours: not stated, not measured.
Expected: box AP 50.47 on the Objects365 test set (paper, appendix A.3), which is not public; val is training data here.
As released this trains on train AND val; the released result is eva02_L_in21k_to_o365.pth.
"""

from .eva02_l_1536 import dataloader, lr_multiplier, model, optimizer, protocol, train

train.init_checkpoint = "hf://Yuxin-CV/EVA-02/eva02/pt/eva02_L_pt_in21k_p14to16.pt"
