"""What may differ between a file and a model, by rule: the only place where keys are named."""

Renames = tuple[tuple[str, str], ...]

# where a file nests its weights, in the order of looking; a file without any of them is a flat state dict
NESTINGS = ("model", "module", "state_dict")
# the same for averaged weights: the authors' detectors, then their fine-tuned classifiers
AVERAGES = ("ema_state", "model_ema")

# a pre-trained backbone carries bare names; in a detector they live under this prefix
BACKBONE_PREFIX = "backbone.net."
PATCH_KERNEL = "patch_embed.proj.weight"
POSITIONS = "pos_embed"

# rotary tables are computed, never stored by us; published files hold them under the network and again under every block
ROTARY_TABLE = r"(^|\.)rope(_win|_glb)?\.freqs_(cos|sin)$"
# the released averages cover them, although the model computes them from its config
CONSTANTS = (r"^pixel_(mean|std)$", r"^proposal_generator\.anchor_generator\.cell_anchors\.\d+$")
# only training uses it, and the model counts it from the annotations at hand
CLASS_COUNTS = r"^roi_heads\.box_predictor\.\d+\.fed_loss_cls_weights$"

# keys of a bare backbone that a detector has no use for, with the reason (masked image modelling, timm, MAE)
NOT_FOR_DETECTION = (
    (r"^(cls_token|mask_token)$", "a token that detection does not use"),
    (r"^(fc_)?norm\.(weight|bias)$", "the norm after the last block, which detection does not apply"),
    (r"^(lm_)?head\.(weight|bias)$", "the prediction layer of pre-training"),
    (r"^decoder_(embed|norm|pred)\.(weight|bias)$", "the decoder of masked autoencoding"),
    (r"^decoder_(pos_embed|blocks\.\d+\..+)$", "the decoder of masked autoencoding"),
)
# keys inside the backbone of a detector that no pre-training knows: relative positions and residual convolutions of ViTDet
NEW_IN_BACKBONE = (r"\.attn\.rel_pos_[hw]$", r"\.blocks\.\d+\.residual\.")

# layouts of a backbone, by a key that only they have (the first that is there decides), and their names for ours
MASKED_IMAGE_MODELLING: Renames = ()
TIMM: Renames = (
    (r"\.mlp\.fc1_g\.", ".mlp.w1."),
    (r"\.mlp\.fc1_x\.", ".mlp.w2."),
    (r"\.mlp\.fc1\.", ".mlp.w12."),  # Ti and S; the gate comes first, as in w12
    (r"\.mlp\.fc2\.", ".mlp.w3."),
    (r"\.mlp\.norm\.", ".mlp.ffn_ln."),
    (r"\.attn\.([qv])_proj\.bias$", r".attn.\1_bias"),
)
PLAIN_VIT: Renames = ()
LAYOUTS = (
    ("blocks.0.mlp.w1.weight", "EVA-02 backbone", MASKED_IMAGE_MODELLING),
    ("blocks.0.mlp.w12.weight", "EVA-02 backbone", MASKED_IMAGE_MODELLING),
    ("blocks.0.mlp.fc1_g.weight", "EVA-02 backbone with timm's names", TIMM),
    ("blocks.0.attn.q_bias", "EVA-02 backbone with timm's names", TIMM),
    ("blocks.0.attn.qkv.bias", "plain ViT backbone", PLAIN_VIT),
    (PATCH_KERNEL, "backbone", PLAIN_VIT),
)

# one stored matrix in Ti and S, several in B, L and in every detector: rows in this order
PACKED = (
    (".attn.qkv.weight", (".attn.q_proj.weight", ".attn.k_proj.weight", ".attn.v_proj.weight")),
    (".mlp.w12.weight", (".mlp.w1.weight", ".mlp.w2.weight")),
    (".mlp.w12.bias", (".mlp.w1.bias", ".mlp.w2.bias")),
)
