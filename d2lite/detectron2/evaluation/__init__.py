"""Running a detector over a data set and scoring what it finds."""

from .evaluator import DatasetEvaluator, DatasetEvaluators, inference_on_dataset
from .testing import print_csv_format

__all__ = ["DatasetEvaluator", "DatasetEvaluators", "inference_on_dataset", "print_csv_format"]
