"""Level 2: backbones, heads and test-time choices on the Detectron2 API."""
