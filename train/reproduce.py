"""Train an experiment of the comparison again, measure it and write its card.

    python train/reproduce.py resnet50-lgg-scratch

The code is in `bthub.training.reproduce`, which `bthub reproduce` runs too.
"""

import sys

from bthub.errors import report_errors
from bthub.training.reproduce import main

if __name__ == "__main__":
    sys.exit(report_errors(main))
