"""Fine-tune a timm classifier.

    accelerate launch train/classifier.py --config resnet18-lgg --output runs/my-resnet

The code is in `bthub.training.classifier`, which `bthub train classifier` runs too.
`accelerate launch` also starts it on several GPUs.
"""

import sys

from bthub.errors import report_errors
from bthub.training.classifier import main

if __name__ == "__main__":
    sys.exit(report_errors(main))
