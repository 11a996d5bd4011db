"""Fit the input check of a detector's pipeline and measure it.

    python train/input_check.py --data data/lgg data/4class data/253 --run runs/my-resnet --weights WEIGHTS

The code is in `bthub.training.ood_check`, which `bthub ood-check` runs too.
"""

import sys

from bthub.errors import report_errors
from bthub.training.ood_check import main

if __name__ == "__main__":
    sys.exit(report_errors(main))
