"""Benchmarks as LightningDataModules. They know no model: a YAML brings the two together."""

from datamodules.base import InstructionDataModule, Split
from datamodules.commonsense170k import Commonsense170k
from datamodules.convai2 import ConvAI2
from datamodules.encoding import Encoding
from datamodules.math10k import Math10k
from datamodules.miniworld.datamodule import MiniWorld, MiniWorldPretraining
from datamodules.records import Record

__all__ = [
    "Commonsense170k",
    "ConvAI2",
    "Encoding",
    "InstructionDataModule",
    "Math10k",
    "MiniWorld",
    "MiniWorldPretraining",
    "Record",
    "Split",
]
