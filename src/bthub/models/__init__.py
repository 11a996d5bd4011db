"""Models: made, saved and loaded by name. Importing this package makes them known to timm and transformers,

    import bthub.models
    from transformers import pipeline

    pipeline("image-segmentation", model="ORG/resunet18-lgg")

which then ask for no remote code.
"""

from bthub.models import mlp_head as _mlp_head  # noqa: F401
from bthub.models import resunet as _resunet  # noqa: F401
from bthub.models import simple_cnn as _simple_cnn  # noqa: F401
