"""A few optimiser steps of a nano detector, in one process or as one of several ranks."""

import sys
from pathlib import Path
from typing import Any

import torch
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.engine import create_ddp_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from configs.common.models import HeadSizes, Proposals, cascade_mask_rcnn
from eva02_det.engine.trainer import Trainer
from eva02_det.modeling.vit import Positions, TrV

SIDE_PX = 96
OBJECTS = 3  # in every image, so that each rank averages its mask loss over as many


def detector() -> torch.nn.Module:
    """No draw of its own: every anchor and proposal takes part, and proposals are too small to become foreground."""
    grid = L(Positions)(pretrain_grid=SIDE_PX // 16)
    net = L(TrV)(embed_dim=32, depth=2, num_heads=2, window_size=3, global_block_indexes=[1], positions=grid)
    node = cascade_mask_rcnn(
        net,
        num_classes=3,
        image_size=SIDE_PX,
        channels=16,
        heads=HeadSizes(box_convs=1, box_width=32, mask_convs=1),
        proposals=Proposals(anchor_sizes_px=(2, 2, 2, 2, 2), pre_nms_topk=(40, 40), post_nms_topk=(16, 16)),
    )
    node.proposal_generator.batch_size_per_image = 100_000
    node.roi_heads.batch_size_per_image = 100_000
    torch.manual_seed(0)
    return instantiate(node).train()


def images(count: int) -> list[dict[str, Any]]:
    draw = torch.Generator().manual_seed(1)
    return [image(draw) for _ in range(count)]


def image(draw: torch.Generator) -> dict[str, Any]:
    corner = torch.rand(OBJECTS, 2, generator=draw) * 40
    boxes = torch.cat([corner, corner + 24 + torch.rand(OBJECTS, 2, generator=draw) * 30], dim=1).round()
    masks = torch.zeros(OBJECTS, SIDE_PX, SIDE_PX, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.long()):
        mask[y0:y1, x0:x1] = True
    objects = Instances((SIDE_PX, SIDE_PX), gt_boxes=Boxes(boxes), gt_masks=BitMasks(masks))
    objects.gt_classes = torch.randint(0, 3, (OBJECTS,), generator=draw)
    pixels = torch.randint(0, 255, (3, SIDE_PX, SIDE_PX), dtype=torch.uint8, generator=draw)
    return {"image": pixels, "height": SIDE_PX, "width": SIDE_PX, "instances": objects}


def take_steps(target: str, count: int, *, accumulate: int = 1) -> None:
    """`count` steps on two images each, shared among the ranks; the first rank saves the weights and its fg counts."""
    torch.set_num_threads(1)
    world, rank = comm.get_world_size(), comm.get_rank()
    share = 2 // world  # of the two images of a step
    drawn = images(2 * count)
    mine = [one for i, one in enumerate(drawn) if i % 2 // share == rank]
    batches = [mine[i : i + share // accumulate] for i in range(0, len(mine), share // accumulate)]
    model = create_ddp_model(detector(), broadcast_buffers=False, device_ids=None)
    trainer = Trainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9), accumulate=accumulate)
    trainer.max_iter = count
    with EventStorage() as trainer.storage:
        for trainer.iter in range(count):
            trainer.run_step()
            trainer.storage.step()
        foreground = trainer.storage.history("roi_head/num_fg_samples").latest() if rank == 0 else None
    if rank == 0:
        plain = getattr(model, "module", model)
        torch.save({"weights": plain.state_dict(), "foreground": foreground}, target)


if __name__ == "__main__":
    from eva02_det.launch.process_group import join_torchrun

    join_torchrun()
    take_steps(str(Path(sys.argv[1])), int(sys.argv[2]))
