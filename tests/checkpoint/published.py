"""Files in the layouts of the published checkpoints: their names, shapes and nesting, with one constant per tensor.

A constant needs no room in a torch file, whatever the shape. Names and shapes of the authors' files are those of the golden
fixtures, of timm's files those of timm's models, of MAE's files those of its publication.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import instantiate
from torch import Tensor, nn

from configs.common.models import cascade_mask_rcnn, federated_loss, softmax_loss, trv
from configs.common.vitdet import plain_vit
from tests.golden.cases import ROOT, GoldenCase
from tests.golden.detectors import data_set_with_counts

Shapes = Mapping[str, tuple[int, ...]]
CHAIN = (r"cls_score", r"^roi_heads\.mask_head\.")  # what starts anew after Objects365


def golden(name: str) -> GoldenCase:
    if not (ROOT / name).is_dir():
        pytest.skip(f"no golden fixtures at {ROOT}; set EVA02_GOLDEN")
    return GoldenCase(name)


def constants(shapes: Shapes, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Tensor number i holds i / 1024, exact in half precision; what a config fixes holds what it must."""
    tables = cache(rotary_table)  # one tensor for all blocks, as in the published files
    weights = {}
    for number, (key, shape) in enumerate(shapes.items(), start=1):
        if ".freqs_" in key:
            weights[key] = tables(tuple(shape), key[-3:], dtype)
        elif is_constant(key):
            weights[key] = constant_of_config(key)
        else:
            weights[key] = torch.tensor(number / 1024, dtype=dtype).expand(shape)
    return weights


def rotary_table(shape: tuple[int, ...], function: str, dtype: torch.dtype = torch.float32) -> Tensor:
    """[N, C] or [side, side, C] for a side that covers 16 positions."""
    side, channels = round(np.prod(shape[:-1]) ** 0.5), shape[-1]
    turn = np.arange(side)[:, None] * 16 / side * 10000.0 ** (-np.arange(0, channels, 4) / channels).repeat(2)
    rows, cols = np.broadcast_arrays(turn[:, None], turn[None])
    table = getattr(np, function)(np.concatenate((rows, cols), -1))
    return torch.from_numpy(table.reshape(shape)).to(dtype)


def masked_image_model(size: str, *, old_tables: bool = True) -> dict[str, tuple[int, ...]]:
    """Shapes of a pre-training checkpoint, patches of 14; `old_tables`: in the three-dimensional shape of the published files."""
    shapes = {key: tuple(shape) for key, (shape, _) in golden(f"mim/manifest_{size}").json("state_dict.json").items()}
    return {key: (16, 16, 64) if old_tables and ".freqs_" in key else shape for key, shape in shapes.items()}


def patch_16(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """The shapes after conversion."""
    width = shapes["cls_token"][-1]
    return {**shapes, "patch_embed.proj.weight": (width, 3, 16, 16), "pos_embed": (1, 197, width)}


def authors_detector(case: str) -> dict[str, tuple[int, ...]]:
    return {key: tuple(shape) for key, (shape, _) in golden(f"lr_decay/{case}").json("state_dict.json").items()}


def objects365_detector() -> dict[str, tuple[int, ...]]:
    """The L detector of 365 classes, without masks."""
    shapes = authors_detector("o365_to_coco_L_8global_1536")
    shapes = {key: shape for key, shape in shapes.items() if "mask_head" not in key}
    return {key: (366, *shape[1:]) if "cls_score" in key else shape for key, shape in shapes.items()}


def lvis_base_detector() -> dict[str, tuple[int, ...]]:
    """The B detector of 1203 classes: that of COCO with other class layers and the weights of the federated loss."""
    rows = {"cls_score": 1204, "mask_head.predictor": 1203}
    shapes = authors_detector("coco_B_4global_1024")
    for key, shape in shapes.items():
        shapes[key] = next(((count, *shape[1:]) for name, count in rows.items() if name in key), shape)
    return shapes | {f"roi_heads.box_predictor.{stage}.fed_loss_cls_weights": (1203,) for stage in range(3)}


def averaged(case: str) -> dict[str, tuple[int, ...]]:
    """An `ema_state` as published: 580 names, constants of the config among them."""
    constant = {"pixel_mean": (3, 1, 1), "pixel_std": (3, 1, 1)}
    shapes = authors_detector(case)
    counts = {key: shape for key, shape in shapes.items() if key.endswith("fed_loss_cls_weights")}  # buffers of LVIS only
    names = [*golden("ema/tracked_names_L").json("tracked.json"), *counts]
    return {key: shapes.get(key) or constant.get(key, (3, 4)) for key in names}


def constant_of_config(key: str) -> Tensor:
    """Values of the released configs, off by what averaging does to them."""
    if key == "pixel_mean":
        values = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    elif key == "pixel_std":
        values = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    else:
        side = 32.0 * 2 ** int(key[-1])
        corners = [(side / ratio**0.5 / 2, side * ratio**0.5 / 2) for ratio in (0.5, 1.0, 2.0)]
        values = torch.tensor([[-x, -y, x, y] for x, y in corners])
    return values * (1 + 1e-4)


def timm_model(name: str) -> dict[str, tuple[int, ...]]:
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name)
    return {key: tuple(value.shape) for key, value in model.state_dict().items()}


def masked_autoencoder(width: int, depth: int, patch: int, *, decoder: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published mae_pretrain_vit_*.pth, and of the files that keep the decoder."""
    rows = (224 // patch) ** 2 + 1
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, rows, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,)}
    shapes |= _plain_blocks("blocks", width, depth) | {"norm.weight": (width,), "norm.bias": (width,)}
    if decoder:
        shapes |= {"mask_token": (1, 1, 512), "decoder_pos_embed": (1, rows, 512), "decoder_embed.weight": (512, width)}
        shapes |= {"decoder_embed.bias": (512,), **_plain_blocks("decoder_blocks", 512, 8), "decoder_norm.weight": (512,)}
        shapes |= {"decoder_norm.bias": (512,), "decoder_pred.weight": (patch**2 * 3, 512), "decoder_pred.bias": (patch**2 * 3,)}
    return shapes


def _plain_blocks(prefix: str, width: int, depth: int) -> dict[str, tuple[int, ...]]:
    layers = {
        "attn.qkv": (3 * width, width),
        "attn.proj": (width, width),
        "mlp.fc1": (4 * width, width),
        "mlp.fc2": (width, 4 * width),
    }
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(depth):
        for norm in ("norm1", "norm2"):
            shapes |= {f"{prefix}.{block}.{norm}.{kind}": (width,) for kind in ("weight", "bias")}
        for name, shape in layers.items():
            shapes |= {f"{prefix}.{block}.{name}.weight": shape, f"{prefix}.{block}.{name}.bias": shape[:1]}
    return shapes


@cache
def detector(
    size: str, num_global: int = 4, window: int = 16, classes: int = 80, *, image: int = 1024, masks: bool = True
) -> nn.Module:
    """Without memory for its weights. 1203 classes: with the federated loss."""
    loss = federated_loss(data_set_with_counts([1] * classes)) if classes == 1203 else softmax_loss()
    net = trv(size, num_global=num_global, window_size=window)
    tree = cascade_mask_rcnn(net, num_classes=classes, image_size=image, masks=masks, class_loss=loss)
    with torch.device("meta"):
        return instantiate(tree)


@cache
def plain_detector(size: str = "B") -> nn.Module:
    """ViTDet, with relative positions."""
    with torch.device("meta"):
        return instantiate(cascade_mask_rcnn(plain_vit(size)))


@dataclass(frozen=True)
class Published:
    """A file as it is published, and the detector that it is for.

    `shapes` are those of its weights, `nesting` the key of the file that holds them ("" where it is flat).
    """

    name: str
    nesting: str
    shapes: Callable[[], Shapes]
    model: Callable[[], nn.Module]
    dtype: torch.dtype = torch.float32
    new_weights: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return self.name

    @property
    def which(self) -> str:
        return "ema" if self.nesting == "ema_state" else "model"

    def weights(self) -> dict[str, Tensor]:
        return constants(self.shapes(), self.dtype)

    def content(self, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """A whole file around these weights, with what training leaves in it."""
        if not self.nesting:
            return dict(weights)
        rest = {"iteration": 59_999, "trainer": {"iteration": 59_999, "optimizer": {"state": {}, "param_groups": [{"lr": 5e-5}]}}}
        raw = {"model": {key: value for key, value in weights.items() if not is_constant(key)}} if self.which == "ema" else {}
        return {**raw, self.nesting: dict(weights), **rest}


def is_constant(key: str) -> bool:
    return "pixel_" in key or "cell_anchors" in key


HALF = torch.float16
B, L = partial(detector, "B"), partial(detector, "L")
SYSTEM = partial(L, 8, 32, image=1536)
OBJECTS = partial(L, 8, 16, image=1536)
PUBLISHED = (
    Published("MIM B p14, module", "module", partial(masked_image_model, "B"), B, HALF),
    Published("MIM L p14, module", "module", partial(masked_image_model, "L"), SYSTEM, HALF),
    Published("MIM Ti p14, module", "module", partial(masked_image_model, "Ti"), partial(detector, "Ti"), HALF),
    Published("MIM S p14, module", "module", partial(masked_image_model, "S"), partial(detector, "S"), HALF),
    Published("MIM B p14to16, model", "model", lambda: patch_16(masked_image_model("B")), B),
    Published("MIM L p14to16, model", "model", lambda: patch_16(masked_image_model("L")), OBJECTS, HALF),
    Published("MIM B p14to16, flat", "", lambda: patch_16(masked_image_model("B", old_tables=False)), B),
    Published("MIM B p14to16, state_dict", "state_dict", lambda: patch_16(masked_image_model("B")), B),
    *(
        Published(f"timm {name}", "", partial(timm_model, name), partial(detector, size))
        for size, name in (
            ("Ti", "eva02_tiny_patch14_224"),
            ("S", "eva02_small_patch14_336"),
            ("B", "eva02_base_patch14_224"),
            ("B", "eva02_base_patch14_448"),
            ("L", "eva02_large_patch14_224"),
        )
    ),
    Published("MAE base", "model", partial(masked_autoencoder, 768, 12, 16), plain_detector),
    Published("MAE base with its decoder", "model", partial(masked_autoencoder, 768, 12, 16, decoder=True), plain_detector),
    Published("MAE huge p14", "model", partial(masked_autoencoder, 1280, 32, 14), partial(plain_detector, "H")),
    Published("timm vit_base_patch16_224.mae", "", partial(timm_model, "vit_base_patch16_224.mae"), plain_detector),
    Published("eva02_B_coco_bsl", "model", partial(authors_detector, "coco_B_4global_1024"), B),
    Published("eva02_B_coco_sys", "model", partial(authors_detector, "coco_B_6global_win32_1536"), partial(B, 6, 32, image=1536)),
    Published("eva02_B_lvis_bsl", "model", lvis_base_detector, partial(B, classes=1203)),
    Published("eva02_L_coco_bsl", "model", partial(authors_detector, "coco_L_4global_1024"), L),
    Published("eva02_L_coco_sys", "model", partial(authors_detector, "coco_L_8global_win32_1536"), SYSTEM),
    Published("eva02_L_lvis_bsl", "model", partial(authors_detector, "lvis_L_4global_1024"), partial(L, classes=1203)),
    Published("eva02_L_lvis_sys", "model", partial(authors_detector, "lvis_L_8global_win32_1536"), partial(SYSTEM, classes=1203)),
    Published("eva02_L_coco_det_sys_o365", "ema_state", partial(averaged, "o365_to_coco_L_8global_1536"), OBJECTS),
    Published(
        "eva02_L_lvis_sys_o365", "ema_state", partial(averaged, "o365_to_lvis_L_8global_1536"), partial(OBJECTS, classes=1203)
    ),
    Published("eva02_L_m38m_to_o365", "model", objects365_detector, partial(OBJECTS, classes=365, masks=False)),
    Published("O365 to COCO", "model", objects365_detector, OBJECTS, new_weights=CHAIN),
    Published("O365 to LVIS", "model", objects365_detector, partial(OBJECTS, classes=1203), new_weights=CHAIN),
)
