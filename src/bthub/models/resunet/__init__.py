"""The ResUNet as a transformers model; the three modules beside this file travel to the Hub as remote code."""

from transformers import AutoConfig, AutoImageProcessor, AutoModelForSemanticSegmentation

from .configuration_resunet import ResUNetConfig
from .image_processing_resunet import ResUNetImageProcessor, clean_mask, letterbox_box
from .modeling_resunet import ResUNetForSemanticSegmentation

# With bthub imported, transformers' Auto classes know the model and need no remote code.
AutoConfig.register(ResUNetConfig.model_type, ResUNetConfig, exist_ok=True)
AutoModelForSemanticSegmentation.register(ResUNetConfig, ResUNetForSemanticSegmentation, exist_ok=True)
AutoImageProcessor.register(ResUNetConfig, image_processor_classes={"pil": ResUNetImageProcessor}, exist_ok=True)

# `save_pretrained` then copies the code beside the weights and names it in `auto_map`; `save_localizer` does the same
# for the image processor.
ResUNetConfig.register_for_auto_class()
ResUNetForSemanticSegmentation.register_for_auto_class("AutoModelForSemanticSegmentation")

__all__ = ["ResUNetConfig", "ResUNetForSemanticSegmentation", "ResUNetImageProcessor", "clean_mask", "letterbox_box"]
