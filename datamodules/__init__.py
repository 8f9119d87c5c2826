"""Benchmarks as LightningDataModules. They know no model: a YAML brings the two together."""

from datamodules.base import InstructionDataModule
from datamodules.commonsense170k import Commonsense170k
from datamodules.encoding import Encoding
from datamodules.miniworld.datamodule import MiniWorld, MiniWorldPretraining
from datamodules.records import Record

__all__ = [
    "Commonsense170k",
    "Encoding",
    "InstructionDataModule",
    "MiniWorld",
    "MiniWorldPretraining",
    "Record",
]
