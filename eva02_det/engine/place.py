"""Where each rank of a training stands: its random generators and its place in the data."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.utils import comm

from eva02_det.utils.randomness import key_of, random_state, seed_generators

logger = logging.getLogger("eva02_det")


def place_of_all(loader: Any) -> list[dict[str, Any]]:
    """What each rank must know to go on, by rank, in the main process; empty in the others. Every rank must call this."""
    data = loader.state_dict() if hasattr(loader, "state_dict") else None
    return comm.gather({"random": random_state(), "data": data})


def load_place(loader: Any, ranks: Sequence[Mapping[str, Any]] | None) -> Mapping[str, Any] | None:
    """Put the loader where the checkpoint says; returns the generators for this rank, None where they begin anew.

    On another number of processes the order of images and what is drawn for each stay; what the model draws does not.
    """
    if not ranks:
        logger.warning("the checkpoint does not say where its run stood in the data: images are drawn from the beginning again")
        return None
    rank, world = comm.get_rank(), comm.get_world_size()
    place = ranks[0]["data"]
    if place is None or not hasattr(loader, "load_state_dict"):
        logger.warning("this training loader keeps no place: the resumed run draws its images anew")
    elif len(ranks) == world:
        loader.load_state_dict(ranks[rank]["data"])
    else:
        loader.load_state_dict(place | {"broken": _together(ranks) if rank == 0 else _nothing(place["broken"])})
    if len(ranks) == world:
        return ranks[rank]["random"]
    logger.warning(
        "the run goes on with %d processes instead of %d: weights, optimizer, schedule, averages and the order and augmentations "
        "of the images stay as they would have been, while what the model draws (proposals, drop path) is drawn anew, and "
        "sums are taken in another order",
        world,
        len(ranks),
    )
    seed_generators(key_of("resumed", 0 if place is None else place["seed"], 0 if place is None else place["images"], rank))
    return None


def _together(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One account of unreadable images of those of all ranks."""
    accounts = [one["data"]["broken"] for one in ranks]
    first = list(dict.fromkeys(text for account in accounts for text in account["first"]))
    return {"seen": sum(a["seen"] for a in accounts), "count": sum(a["count"] for a in accounts), "first": first}


def _nothing(account: Mapping[str, Any]) -> dict[str, Any]:
    return {key: [] if key == "first" else 0 for key in account}
