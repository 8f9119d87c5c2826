"""What a finished adapter looks like from the outside: updates and their spectra."""

from tera_pl.analysis.spectra import Spectrum, summarize
from tera_pl.analysis.updates import iter_updates

__all__ = ["Spectrum", "iter_updates", "summarize"]
