"""Classification and box regression of a region of interest: the layers, what they are trained on, how they are read."""

from ._box_inference import fast_rcnn_inference, fast_rcnn_inference_single_image
from ._box_predictor import FastRCNNOutputLayers

__all__ = ["FastRCNNOutputLayers", "fast_rcnn_inference", "fast_rcnn_inference_single_image"]
