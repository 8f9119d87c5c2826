"""What mypy checks: a field that is renamed on one side only is a type error here."""

from datamodules import records
from datamodules.base import InstructionDataModule
from datamodules.batching import EvalBatch, TrainBatch
from tera_pl import contracts
from tera_pl.callbacks.task import Task
from tera_pl.metrics.accuracy import AnswerAccuracy
from tera_pl.metrics.choice_likelihood import ChoiceLikelihood
from tera_pl.metrics.dialogue import DialogueScores
from tera_pl.tasks import CausalLMTask


def datamodule(value: InstructionDataModule) -> contracts.DataModule:
    return value


def record(value: records.Record) -> contracts.Record:
    return value


def train_batch(value: TrainBatch) -> contracts.TrainBatch:
    return value


def eval_batch(value: EvalBatch) -> contracts.EvalBatch:
    return value


def metric(value: AnswerAccuracy) -> contracts.Metric:
    return value


def likelihood_metric(value: ChoiceLikelihood) -> contracts.LikelihoodMetric:
    return value


def incomplete_metric(value: DialogueScores) -> contracts.IncompleteMetric:
    return value


def task(value: CausalLMTask) -> Task:
    return value
