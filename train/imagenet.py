"""ImageNet weights from installed packages, for where the Hub can't be reached.

    python train/imagenet.py tf_efficientnet_lite0 data/imagenet-tf_efficientnet_lite0.safetensors

The code is in `bthub.training.imagenet`, which `bthub imagenet-weights` runs too.
"""

import sys

from bthub.errors import report_errors
from bthub.training.imagenet import main

if __name__ == "__main__":
    sys.exit(report_errors(main))
