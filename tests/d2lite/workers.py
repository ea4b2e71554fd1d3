"""What the processes of the tests of several processes run; they import it by name."""

import json
import time
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer, create_ddp_model
from detectron2.utils import comm
from torch import nn

import eva02_det._provider


class Squares(nn.Module):
    """A regression: each sample is [x0, x1, target]."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 1)
        nn.init.constant_(self.fc.weight, 0.5)
        nn.init.zeros_(self.fc.bias)

    def forward(self, samples: torch.Tensor) -> dict[str, torch.Tensor]:
        error = self.fc(samples[:, :2]).squeeze(1) - samples[:, 2]
        return {"loss_square": error.square().mean(), "loss_size": 0.1 * self.fc.weight.square().sum()}


def samples(count: int) -> torch.Tensor:
    """[count, 3], whose targets are x0 - x1."""
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(0))
    return torch.cat([x, x[:, :1] - x[:, 1:]], dim=1)


def exchange(folder: Path) -> None:
    """Try every exchange once and write what this process saw."""
    rank = comm.get_rank()
    seen = {
        "provider": eva02_det._provider.active(),
        "rank": [rank, comm.get_local_rank(), comm.get_world_size(), comm.get_local_size()],
        "main": comm.is_main_process(),
        "all_gather": comm.all_gather({"rank": rank, "text": "x" * rank}),
        "gather": comm.gather(rank * 10),
        "gather_to_1": comm.gather(rank * 10, dst=1),
        "local": comm.all_gather(rank, group=comm.get_local_process_group()),
        "seed": comm.shared_random_seed(),
        "weights": train(rank, comm.get_world_size()),
        "saved": save(folder),
    }
    comm.synchronize()
    (folder / f"seen{rank}.json").write_text(json.dumps(seen))


def train(rank: int, size: int) -> list[float]:
    """Weights after three steps over this process's share of each batch of 8."""
    model = create_ddp_model(Squares(), device_ids=None)
    batches = [batch[rank::size] for batch in samples(24).split(8)]
    trainer = SimpleTrainer(model, batches, torch.optim.SGD(model.parameters(), lr=0.1))
    trainer.train(0, 3)
    weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    return weights.tolist()


def save(folder: Path) -> list[str]:
    """Files in this process's own folder after every process has saved a checkpoint there."""
    mine = folder / f"saved_by_{comm.get_rank()}"
    mine.mkdir()
    DetectionCheckpointer(nn.Linear(1, 1), str(mine)).save("last")
    return sorted(path.name for path in mine.iterdir())


def fail(text: str) -> None:
    """The second process fails while the first is busy."""
    if comm.get_rank() == 1:
        raise ValueError(text)
    time.sleep(60)


def _floats(scalars: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: value.item() for name, value in scalars.items()}
