"""BCDNet: binary neural networks that model contextual dependencies, as a library."""

from bcdnet.checkpoint import load, save
from bcdnet.model import Network, create_model
from bcdnet.variants import Config, list_models

__all__ = ["Config", "Network", "create_model", "list_models", "load", "save"]
