"""Datasets as LightningDataModules. They depend on no model: a configuration names both."""

from datamodules.base import InstructionDataModule
from datamodules.commonsense170k import Commonsense170k
from datamodules.convai2 import ConvAI2
from datamodules.encoding import Encoding
from datamodules.instruction_files import Columns, Instructions
from datamodules.math10k import Math10k
from datamodules.miniworld.datamodule import MiniWorld, MiniWorldPretraining
from datamodules.records import Record
from datamodules.sources import Source
from datamodules.splitting import Split

__all__ = [
    "Columns",
    "Commonsense170k",
    "ConvAI2",
    "Encoding",
    "InstructionDataModule",
    "Instructions",
    "Math10k",
    "MiniWorld",
    "MiniWorldPretraining",
    "Record",
    "Source",
    "Split",
]
