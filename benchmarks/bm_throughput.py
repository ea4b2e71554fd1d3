"""Images a second of plain ViT and TrV, forward and training, sizes B and L, 196 tokens: the comparison of Table 21.

`python benchmarks/bm_throughput.py [--device cuda] [--dtype bf16] [--sizes B L] [--json FILE]`. ViT is timm's (GELU feed-forward
layer of 4 times the width, learned positions); TrV is ours (SwiGLU, sub-LN, rotary positions) and, as a peer, timm's Eva class of
the same shape. Patches of 16 px at 224 px. All run in turn (A B C A B C ...); medians. Table 21: TrV and ViT cost about the same
in FLOPs and parameters. --depth cuts the blocks; --clock cpu --threads 1 counts the processor time on a CPU others use too.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import timm
import torch
from timm.models.eva import Eva
from torch import Tensor, nn

import eva02_det  # noqa: F401  activates the provider of detectron2
from eva02_det.layers.sizes import TRV_SIZES
from eva02_mim.encoder import TrVEncoder

VIT = {"B": "vit_base_patch16_224", "L": "vit_large_patch16_224"}
IMAGE_PX, PATCH_PX = 224, 16  # 196 tokens and the class token
Forward = Callable[[Tensor], Tensor]


def networks(size: str, depth: int | None, device: str) -> dict[str, tuple[nn.Module, Forward]]:
    """Name -> network, and images -> tokens."""
    shape = TRV_SIZES[size]
    depth = shape.depth if depth is None else depth
    trv = TrVEncoder(shape.embed_dim, depth, shape.num_heads, patch_size=PATCH_PX, image_size=IMAGE_PX)
    eva = Eva(
        img_size=IMAGE_PX,
        patch_size=PATCH_PX,
        num_classes=0,
        global_pool="",
        embed_dim=shape.embed_dim,
        depth=depth,
        num_heads=shape.num_heads,
        mlp_ratio=8 / 3,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_post_transformer_norm=True,
    )
    vit = timm.create_model(VIT[size], num_classes=0, depth=depth)
    forwards = {
        "ViT, timm": (vit, vit.forward_features),
        "TrV, ours": (trv, trv.encode),
        "TrV, timm": (eva, eva.forward_features),
    }
    return {name: (model.to(device), forward) for name, (model, forward) in forwards.items()}


def one_pass(model: nn.Module, forward: Forward, images: Tensor, precision: torch.dtype, training: bool) -> None:
    kind = images.device.type
    with torch.set_grad_enabled(training), torch.autocast(kind, precision, precision != torch.float32):
        tokens = forward(images)
    if training:
        tokens.float().square().mean().backward()
        model.zero_grad(set_to_none=True)
    if kind == "cuda":
        torch.cuda.synchronize()


def measured(size: str, training: bool, options: argparse.Namespace) -> list[dict[str, object]]:
    """One row for each network, medians of runs in turn."""
    torch.manual_seed(0)
    precision = {"fp32": torch.float32, "bf16": torch.bfloat16}[options.dtype]
    images = torch.randn(options.batch, 3, IMAGE_PX, IMAGE_PX, device=options.device)
    built = networks(size, options.depth, options.device)
    now = time.process_time if options.clock == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {name: [] for name in built}
    begun = time.perf_counter()
    for turn in range(options.repeats + 1):
        if turn > 1 and time.perf_counter() - begun > options.limit_s:
            break
        for name, (model, forward) in built.items():
            model.train(training)
            start = now()
            one_pass(model, forward, images, precision, training)
            if turn:  # the first one warms up
                times[name].append(now() - start)
    rates = {name: options.batch / statistics.median(collected) for name, collected in times.items()}
    return [
        {
            "size": size,
            "what": "training" if training else "forward",
            "network": name,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "images_per_s": rates[name],
            "of_vit": rates[name] / rates["ViT, timm"],
        }
        for name, (model, _) in built.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--dtype", default="fp32", choices=("fp32", "bf16"), help="bf16: autocast")
    parser.add_argument("--sizes", nargs="+", default=["B", "L"], choices=("B", "L"))
    parser.add_argument("--depth", type=int, help="of both, instead of 12 (B) and 24 (L)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit-s", type=float, default=float("inf"), help="no further repeat of a row after so many seconds")
    parser.add_argument("--clock", default="wall", choices=("wall", "cpu"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [row for size in options.sizes for training in (False, True) for row in measured(size, training, options)]
    print(f"{'size':5} {'what':9} {'network':10} {'Mparam':>7} {'images/s':>9} {'of ViT':>7}")
    for row in rows:
        millions, rate, share = row["parameters"] / 1e6, row["images_per_s"], row["of_vit"]
        print(f"{row['size']:5} {row['what']:9} {row['network']:10} {millions:7.1f} {rate:9.2f} {share:7.2f}")
    if options.json:
        options.json.write_text(json.dumps({"options": vars(options) | {"json": None}, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
