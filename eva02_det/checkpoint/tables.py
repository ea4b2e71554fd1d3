"""What may differ between a file and a model, by rule: the only place where keys are named."""

# rotary tables are computed, never stored by us; published files hold them under the network and again under every block
DERIVED = (r"(^|\.)rope(_win|_glb)?\.freqs_(cos|sin)$",)
# only masked image modelling needs these (specification 2.1)
PRETRAINING_ONLY = (r"^cls_token$", r"^mask_token$", r"^norm\.(weight|bias)$", r"^lm_head\.(weight|bias)$")
# a pre-trained backbone carries bare names; in a detector they live under this prefix
BACKBONE_PREFIX = "backbone.net."
# a file is taken for a bare backbone when it has this key
BACKBONE_MARK = "patch_embed.proj.weight"
