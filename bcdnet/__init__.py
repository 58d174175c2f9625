"""BCDNet: binary neural networks that model contextual dependencies, as a library."""

from bcdnet.checkpoint import load, save
from bcdnet.engine import Engine, load_engine, pack
from bcdnet.model import Network, create_model
from bcdnet.variants import Config, list_models

__all__ = ["Config", "Engine", "Network", "create_model", "list_models", "load", "load_engine", "pack", "save"]
