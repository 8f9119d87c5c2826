"""What an adapter costs, and the weight updates of a trained one with their spectra."""

from tera_pl.analysis.accounting import Counts, bytes_of, count
from tera_pl.analysis.delta_weights import iter_delta_weights, iter_spectra
from tera_pl.analysis.dry_generation import GenerationUsage, dry_generation
from tera_pl.analysis.dry_run import Ledger, Usage, count_flops, dry_run
from tera_pl.analysis.spectra import Spectrum, summarize

__all__ = [
    "Counts",
    "GenerationUsage",
    "Ledger",
    "Spectrum",
    "Usage",
    "bytes_of",
    "count",
    "count_flops",
    "dry_generation",
    "dry_run",
    "iter_delta_weights",
    "iter_spectra",
    "summarize",
]
