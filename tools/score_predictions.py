#!/usr/bin/env python3
"""Score predictions again, without a model: the output folder of an evaluation, or a JSON file of COCO or LVIS results.

python tools/score_predictions.py output/inference
python tools/score_predictions.py output/inference --area-bins fine --image-ids kept.json --out output/kept
python tools/score_predictions.py results.json --annotations lvis_v1_val.json --benchmark lvis --max-detections 1000
"""

from eva02_det.evaluation.score import main
from eva02_det.utils.errors import run_tool

if __name__ == "__main__":
    run_tool(main)
