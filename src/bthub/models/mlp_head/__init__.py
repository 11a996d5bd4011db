"""Backbones under several dense layers; the module beside this file travels to the Hub as remote code."""

from .modeling_mlp_head import BACKBONES, MlpHead

__all__ = ["BACKBONES", "MlpHead"]
