"""The simple CNN; the module beside this file travels to the Hub as remote code."""

from .modeling_simple_cnn import SimpleCNN

__all__ = ["SimpleCNN"]
