"""Work that the processes of a run must agree on: an error of one ends all of them, where it would keep the others waiting."""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from detectron2.utils import comm

from eva02_det.utils.errors import UserError

Done = TypeVar("Done")


def in_all(work: Callable[[], Done]) -> Done:
    """What `work` gives in this process, after it has ended in all; a UserError of one is raised in all of them."""
    result, problem = None, ""
    try:
        result = work()
    except UserError as error:
        problem = str(error)
    problems = [text for text in comm.all_gather(problem) if text]
    if problems:
        raise UserError(problems[0])
    return cast(Done, result)


def on_main(work: Callable[[], Done]) -> Done:
    """What `work` gives in the main process, which alone does it, in all of them; a UserError of it too."""
    return comm.all_gather(in_all(lambda: work() if comm.is_main_process() else cast(Done, None)))[0]


def largest(number: int) -> int:
    """The largest of the processes' numbers, in all of them. Travels between their host memories; no device is waited for."""
    if comm.get_world_size() == 1:
        return number
    told = torch.tensor(number)
    dist.all_reduce(told, op=dist.ReduceOp.MAX, group=_host_group(dist.group.WORLD))
    return int(told)


@cache
def _host_group(world: Any) -> Any:
    return world if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
