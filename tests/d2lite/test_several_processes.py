"""launch, comm and data parallelism: in two processes connected by gloo, and in one alone."""

import json

import pytest
import torch
from detectron2.engine import create_ddp_model, launch
from detectron2.utils import comm
from torch import nn

from eva02_det._provider import active
from tests.d2lite import workers

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would take two GPUs"),
]


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> list[dict]:
    """What each of two processes wrote."""
    folder = tmp_path_factory.mktemp("exchange")
    launch(workers.exchange, 2, dist_url="auto", args=(folder,))
    return [json.loads((folder / f"seen{rank}.json").read_text()) for rank in range(2)]


def test_processes_know_their_place_and_their_number(seen):
    assert [process["rank"] for process in seen] == [[0, 0, 2, 2], [1, 1, 2, 2]]
    assert [process["main"] for process in seen] == [True, False]


def test_processes_use_the_same_provider_as_the_one_that_started_them(seen):
    assert {process["provider"] for process in seen} == {active()}


def test_all_gather_brings_every_object_to_every_process_by_rank(seen):
    expected = [{"rank": 0, "text": ""}, {"rank": 1, "text": "x"}]
    assert [process["all_gather"] for process in seen] == [expected, expected]
    assert [process["local"] for process in seen] == [[0, 1], [0, 1]]


def test_gather_brings_every_object_to_one_process(seen):
    assert [process["gather"] for process in seen] == [[0, 10], []]
    assert [process["gather_to_1"] for process in seen] == [[], [0, 10]]


def test_processes_agree_on_a_random_seed(seen):
    assert seen[0]["seed"] == seen[1]["seed"]


def test_two_processes_train_the_same_weights_as_one_with_the_whole_batch(seen):
    torch.testing.assert_close(seen[0]["weights"], seen[1]["weights"], rtol=0, atol=0)
    torch.testing.assert_close(seen[0]["weights"], workers.train(0, 1), rtol=1e-5, atol=1e-6)


def test_only_the_first_process_writes_checkpoints(seen):
    assert [process["saved"] for process in seen] == [["last.pth", "last_checkpoint"], []]


def test_what_fails_in_a_worker_fails_the_launch_with_its_message():
    with pytest.raises(Exception, match="the second process is unhappy"):
        launch(workers.fail, 2, dist_url="auto", args=("the second process is unhappy",))


def test_one_process_is_simply_called():
    called = []
    launch(called.append, 1, args=(comm.get_world_size(),))
    assert called == [1]


@pytest.mark.skipif(active() == "official", reason="the official one asserts, or waits")
@pytest.mark.parametrize(("machines", "url"), [(1, None), (2, "auto")])
def test_processes_that_cannot_meet_are_refused_before_they_start(machines, url):
    with pytest.raises(ValueError, match=r"dist_url|machine"):
        launch(workers.fail, 2, num_machines=machines, dist_url=url, args=("",))


def test_alone_every_exchange_gives_back_what_it_was_given():
    assert (comm.get_rank(), comm.get_local_rank(), comm.get_world_size(), comm.get_local_size()) == (0, 0, 1, 1)
    assert comm.is_main_process()
    assert comm.all_gather("x") == comm.gather("x") == ["x"]
    assert 0 <= comm.shared_random_seed() < 2**31
    comm.synchronize()


def test_alone_a_model_is_not_wrapped():
    model = nn.Linear(1, 1)
    assert create_ddp_model(model, fp16_compression=True) is model
