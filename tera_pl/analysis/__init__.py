"""What an adapter costs, and what a finished one looks like: updates and their spectra."""

from tera_pl.analysis.accounting import Counts, bytes_of, count
from tera_pl.analysis.dry_run import Usage, count_flops, dry_run
from tera_pl.analysis.spectra import Spectrum, summarize
from tera_pl.analysis.updates import iter_spectra, iter_updates

__all__ = [
    "Counts",
    "Spectrum",
    "Usage",
    "bytes_of",
    "count",
    "count_flops",
    "dry_run",
    "iter_spectra",
    "iter_updates",
    "summarize",
]
