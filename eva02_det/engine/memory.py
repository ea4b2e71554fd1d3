"""How much memory a training step needs on one GPU, before any GPU is used.

Fixed, per process: fp32 weights, gradients and two AdamW moments (4 + 4 + 8 bytes a parameter), the weight average if there is
one (4), the buckets in which several processes exchange gradients (4), and under mixed precision the low-precision copies of the
backbone's weights (2). Per image: what a forward pass keeps for the backward pass, in bytes. For a block of TrV, with N tokens,
D width, H hidden width of the feed-forward layer, b bytes of a low-precision number (2 under mixed precision, else 4):

    8 D N      inputs of the two norms
    4 b D N    q, k, v and the result of attention, + 4 N for each head; windows keep as much as global attention
    c b D N    inputs of q, k, v, w1, w2: c = 5 copies under mixed precision, 2 in fp32
    4 b H N    input and output of SiLU, the other branch, input of w3; + 4 H N for the input of the inner norm, if there is one
    + 4 heads N R (+ b under mixed precision) for attention="math", R the tokens that a token sees; other kernels keep no scores

With activation checkpointing a block keeps 4 D N, and one block at a time all of the above. A layer of the pyramid keeps its
input. What other backbones, proposals, box heads (512 regions a stage) and mask head (all regions that may be foreground) keep
is counted by running their layers on tensors without memory.

`tests/engine/test_memory.py` holds all this against what a forward pass really keeps (15 % margin) and against the peak of whole
training steps on the CPU. The allowance for the context and kernels of a GPU (`CONTEXT_GIB`) was not measured.
"""

from dataclasses import dataclass

import torch
from detectron2.config import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from eva02_det.engine.saved_tensors import saved_bytes, saved_per_image
from eva02_det.modeling.vit import TrV
from eva02_det.utils.config import get
from eva02_det.utils.errors import UserError

GIB = 2**30
CONTEXT_GIB = 1.0  # CUDA context, libraries and the work space of their kernels
SLACK = 0.1  # of what the images keep: temporaries, as measured on the CPU


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one process by name: what it always holds, and what each image adds."""

    fixed: dict[str, int]
    per_image: dict[str, int]

    def total_gib(self, images: int) -> float:
        """With so many images on the GPU at a time."""
        return CONTEXT_GIB + (sum(self.fixed.values()) + images * (1 + SLACK) * sum(self.per_image.values())) / GIB


def estimate_memory(config: DictConfig, processes: int = 1, model: nn.Module | None = None) -> MemoryEstimate:
    """The estimate for the config's training; `model` is its model where it was built (without memory) already."""
    model = build_on_meta(config) if model is None else model
    low = 2 if get(config, "train.amp.enabled", False) else 4
    count = sum(p.numel() for p in model.parameters() if p.requires_grad)
    fixed = {"weights": 4 * sum(p.numel() for p in model.parameters()), "gradients": 4 * count, "AdamW moments": 8 * count}
    if get(config, "train.ema.decay") is not None:
        fixed["weight average"] = 4 * count
    if processes > 1:
        fixed["gradient buckets"] = 4 * count
    if low == 2:
        fixed["low-precision weights"] = 2 * _cast_at_a_time(model.backbone)
    side = image_side(config)
    parts = {"images": 2 * 4 * 3 * side**2, **backbone_bytes(model.backbone, side, low), **heads_bytes(model, side)}
    return MemoryEstimate(fixed, parts)


def build_on_meta(config: DictConfig) -> nn.Module:
    """The config's model without memory for its weights."""
    try:
        with torch.device("meta"):
            return instantiate(config.model)
    except (ValueError, TypeError, AssertionError, ModuleNotFoundError) as error:
        raise UserError(f"the config's model cannot be built: {str(error) or type(error).__name__}; correct model.*") from error


def image_side(config: DictConfig) -> int:
    """Side in pixels of the square that a training image is padded to, or at most cut to."""
    side = get(config, "model.backbone.square_pad") or get(config, "dataloader.train.mapper.augmentations.pixels")
    if not side:
        raise UserError("nothing says how large images are; set model.backbone.square_pad to the side of the square in pixels")
    return int(side)


def _cast_at_a_time(backbone: nn.Module) -> int:
    """Parameters that exist in low precision at the same time: under checkpointing only one block's."""
    count = sum(p.numel() for p in backbone.parameters())
    blocks = [sum(p.numel() for p in block.parameters()) for block in getattr(backbone.net, "blocks", ())]
    return count - sum(blocks) + max(blocks) if blocks and getattr(backbone.net, "use_act_checkpoint", False) else count


def backbone_bytes(backbone: nn.Module, side: int, low: int, *, norm: int = 4) -> dict[str, int]:
    """What the net and the pyramid keep for one image.

    low: bytes of a number where precision is mixed. norm: of what norms and softmax work on, fp32 in CUDA's mixed precision.
    """
    if isinstance(backbone.net, TrV):
        blocks = trv_bytes(backbone.net, side, low, norm=norm)
    else:
        blocks = counted_bytes(backbone.net, side, low)
    return {"blocks": blocks, "pyramid": pyramid_bytes(backbone, side, low, norm=norm)}


def counted_bytes(net: nn.Module, side: int, low: int) -> int:
    """What any net (on the meta device) keeps for one image; with activation checkpointing also the inside of one block."""
    kept = saved_per_image(net, side, mixed=low == 2)
    if not getattr(net, "use_act_checkpoint", False):
        return kept
    net.use_act_checkpoint = False
    kept += saved_per_image(net, side, mixed=low == 2) // len(net.blocks)
    net.use_act_checkpoint = True
    return kept


def trv_bytes(net: TrV, side: int, low: int, *, norm: int = 4) -> int:
    """What the blocks of TrV keep for one image, by the formula above."""
    rows = -(-side // net.patch_embed.patch_size)
    tokens, window = rows**2, net.window_size
    seen = (-(-rows // window) * window) ** 2  # tokens and empty slots of all windows
    keeps = []
    for index, block in enumerate(net.blocks):
        windowed = index not in net.global_block_indexes
        slots, reach = (seen, window**2) if windowed else (tokens, tokens)
        keeps.append(block_bytes(block, tokens, slots, reach, low, norm))
    if net.use_act_checkpoint:
        return len(keeps) * 4 * net.blocks[0].norm1.weight.numel() * tokens + max(keeps)
    return sum(keeps)


def block_bytes(block: nn.Module, tokens: int, slots: int, reach: int, low: int, norm: int) -> int:
    """One block. slots: places inside attention, empty ones included. reach: tokens that a token attends to."""
    width, hidden, heads = block.norm1.weight.numel(), block.mlp.w1.out_features, block.attn.num_heads
    copies = 5 if low == 2 else 2
    attention = 4 * low * slots * width + 4 * heads * slots + (low * tokens * width if slots != tokens else 0)
    if getattr(block.attn.kernel, "__name__", "") == "math_attention":
        attention += (norm + low * (low != norm)) * heads * slots * reach - 4 * heads * slots
    inner = low * 3 + (norm + low if isinstance(block.mlp.ffn_ln, nn.LayerNorm) else low)
    return 2 * 4 * width * tokens + copies * low * width * tokens + attention + inner * hidden * tokens


def pyramid_bytes(backbone: nn.Module, side: int, low: int, *, norm: int = 4) -> int:
    """The branches of the feature pyramid: each layer keeps its input, in the precision that it works in."""
    shape = backbone.net.output_shape()[backbone.in_feature]
    total = 4 * shape.channels * (side // shape.stride) ** 2  # the map that all branches start from
    for branch in backbone.stages:
        channels, rows = shape.channels, side // shape.stride
        for index, layer in enumerate(branch):
            kept = 0 if index == 0 and low == 4 else low * channels * rows**2  # under mixed precision its copy for each branch
            if isinstance(layer, nn.MaxPool2d):
                rows //= layer.stride
                total += 8 * channels * rows**2  # indexes
            elif isinstance(layer, nn.ConvTranspose2d):
                total, channels, rows = total + kept, layer.out_channels, rows * layer.stride[0]
            elif isinstance(layer, nn.Conv2d):
                total, channels = total + kept, layer.out_channels
                total += norm * channels * rows**2 * _maps_kept(layer.norm) if getattr(layer, "norm", None) is not None else 0
            elif not isinstance(layer, nn.Identity):  # norm, GELU
                total += norm * channels * rows**2 * _maps_kept(layer)
    return total


def _maps_kept(layer: nn.Module) -> int:
    """How many maps of the size of its input a norm keeps: a fused one its input, one written out step by step more."""
    weight = getattr(layer, "weight", None)
    if weight is None:
        return 1
    probe = torch.empty(1, weight.numel(), 8, 8, device=weight.device, requires_grad=True)
    return round(saved_bytes(layer, probe) / (probe.numel() * probe.element_size()))


def heads_bytes(model: nn.Module, side: int) -> dict[str, int]:
    """What proposals, box heads and mask head keep for one image; they always work in fp32."""
    shapes = model.backbone.output_shape()
    maps = [_empty(1, one.channels, side // one.stride, side // one.stride) for one in shapes.values()]
    heads = model.roi_heads
    channels, regions = next(iter(shapes.values())).channels, heads.batch_size_per_image
    box_side, mask_side = _side(heads, "box_pooler"), _side(heads, "mask_pooler")
    found = {"proposals": saved_bytes(model.proposal_generator.rpn_head, maps)}
    stages = heads.box_head if isinstance(heads.box_head, nn.ModuleList) else [heads.box_head]
    pooled = _empty(regions, channels, box_side, box_side)
    found["box heads"] = sum(saved_bytes(stage, pooled) for stage in stages)
    if getattr(heads, "mask_on", False):
        foreground = max(1, round(regions * heads.positive_fraction))
        found["mask head"] = saved_bytes(heads.mask_head.layers, _empty(foreground, channels, mask_side, mask_side))
    return found


def _empty(*shape: int) -> Tensor:
    return torch.empty(*shape, device="meta", requires_grad=True)


def _side(heads: nn.Module, name: str) -> int:
    """Side of what a pooler hands out."""
    pooler = getattr(heads, name, None)
    return 0 if pooler is None else pooler.output_size[0]
