"""Class weights of the federated loss as a record."""

import pytest
import torch
from detectron2.data import MetadataCatalog

from eva02_det.data.federated import FederatedClassWeights


@pytest.fixture
def data_set() -> str:
    # out of order on purpose: class k of the loss is the k-th id
    MetadataCatalog.get("three_classes").set(class_image_count=[{"id": 7, "image_count": 9}, {"id": 2, "image_count": 4}])
    return "three_classes"


def test_weights_are_image_counts_to_the_power_in_order_of_the_ids(data_set: str) -> None:
    torch.testing.assert_close(FederatedClassWeights(data_set)(), torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(FederatedClassWeights(data_set, freq_weight_power=1.0)(), torch.tensor([4.0, 9.0]))


def test_a_list_of_one_data_set_is_that_data_set(data_set: str) -> None:
    assert torch.equal(FederatedClassWeights([data_set])(), FederatedClassWeights(data_set)())


def test_two_records_of_the_same_weights_are_equal(data_set: str) -> None:
    assert FederatedClassWeights(data_set, 0.5) == FederatedClassWeights(data_set)
