"""Train a ResUNet to outline the tumor.

    accelerate launch train/resunet.py --config resunet18-lgg --output runs/my-resunet

The code is in `bthub.training.resunet`, which `bthub train resunet` runs too.
`accelerate launch` also starts it on several GPUs.
"""

import sys

from bthub.errors import report_errors
from bthub.training.resunet import main

if __name__ == "__main__":
    sys.exit(report_errors(main))
