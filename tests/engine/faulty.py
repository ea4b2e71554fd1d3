"""A model that fails at pictures marked so, and ranks of which one fails."""

import argparse
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from eva02_det.engine.faults import Faults
from eva02_det.engine.train import train
from eva02_det.engine.trainer import Trainer
from eva02_det.launch.process_group import start
from eva02_det.utils.errors import UserError
from tests.engine.interrupted import config_of, disturb

FAULTS = ("loss", "gradient", "proposals")


def picture(number: int, fault: str = "") -> dict[str, Any]:
    draw = torch.Generator().manual_seed(number)
    return {"file_name": f"{number}.jpg", "image": torch.randn(4, generator=draw), "fault": fault}


class Picky(nn.Module):
    """A linear map whose loss, gradient or forward pass is not finite where a picture says so."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.map = nn.Linear(4, 1)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        pixels, fault = torch.stack([one["image"] for one in batch]), batch[0]["fault"]
        loss = (self.map(pixels) - pixels.sum(1, keepdim=True)).pow(2).mean()
        if fault == "proposals":
            raise FloatingPointError("the proposals are not finite")
        if fault == "loss":
            loss = loss * float("nan")
        if fault == "gradient":
            loss = loss + (loss * 0).sqrt()  # 0, with a gradient of infinity times 0
        return {"loss": loss}


def as_two_ranks(folder: str) -> None:
    """The second rank meets each fault once, and at last an image that is gone."""
    rank = comm.get_rank()

    def batches() -> Iterator[list[dict[str, Any]]]:
        for number, fault in enumerate(("", *FAULTS, "")):
            yield [picture(2 * number + rank, fault=fault if rank == 1 else "")]
        if rank == 1:
            raise UserError("disc 7 is gone")
        yield [picture(100)]

    model = create_ddp_model(Picky(), device_ids=None, broadcast_buffers=False)
    faults = Faults(len(FAULTS), folder)
    trainer = Trainer(model, batches(), torch.optim.AdamW(model.parameters(), lr=0.1), faults=faults)
    trainer.max_iter, said = 10, ""
    with EventStorage(0) as trainer.storage:
        try:
            for trainer.iter in range(10):
                trainer.run_step()
        except UserError as error:
            said = str(error)
    result = {"weights": model.module.state_dict(), "skipped": faults.skipped, "iterations": trainer.iter, "said": said}
    torch.save(result, Path(folder) / f"{rank}.pth")


def lose_a_worker(options: argparse.Namespace) -> None:
    """A training whose second rank loses a loader worker after a few draws."""
    count = Path(options.folder) / f"count{comm.get_rank()}"
    if comm.get_rank() == 1:
        count.write_text("3")
    config = config_of(Path(options.folder) / "run", workers=1)
    disturb(config.dataloader.train.mapper, count, signal.SIGKILL, here=True)
    train(config)


if __name__ == "__main__":
    os.environ["DETECTRON2_DATASETS"] = sys.argv[1]
    one_machine = {"num_machines": 1, "machine_rank": 0, "dist_url": "auto"}
    start(lose_a_worker, argparse.Namespace(folder=sys.argv[1], num_gpus=2, **one_machine))
