"""What an adapter costs, and what a finished one looks like: updates and their spectra."""

from tera_pl.analysis.accounting import Counts, count
from tera_pl.analysis.spectra import Spectrum, summarize
from tera_pl.analysis.updates import iter_spectra, iter_updates

__all__ = ["Counts", "Spectrum", "count", "iter_spectra", "iter_updates", "summarize"]
