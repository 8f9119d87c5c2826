"""Callbacks that check a run and write its run directory."""

from tera_pl.callbacks.best_adapter import BestAdapter
from tera_pl.callbacks.best_checkpoint import BestCheckpoint
from tera_pl.callbacks.interruption import Interruption
from tera_pl.callbacks.loss_trend import LossTrend
from tera_pl.callbacks.matmul_precision import MatmulPrecision
from tera_pl.callbacks.overview import RunOverview
from tera_pl.callbacks.peft_comparison import PeftComparison
from tera_pl.callbacks.precision_guard import PrecisionGuard
from tera_pl.callbacks.predictions import PredictionWriter
from tera_pl.callbacks.progress_line import ProgressLine
from tera_pl.callbacks.ranks import RankLogger
from tera_pl.callbacks.resources import ResourceMonitor
from tera_pl.callbacks.results import ResultsWriter
from tera_pl.callbacks.terminal import Terminal
from tera_pl.callbacks.validations import ValidationScores

__all__ = [
    "BestAdapter",
    "BestCheckpoint",
    "Interruption",
    "LossTrend",
    "MatmulPrecision",
    "PeftComparison",
    "PrecisionGuard",
    "PredictionWriter",
    "ProgressLine",
    "RankLogger",
    "ResourceMonitor",
    "ResultsWriter",
    "RunOverview",
    "Terminal",
    "ValidationScores",
]
