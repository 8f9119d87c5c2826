"""Private names of PEFT that the adapters need, each with its reason.

`tests/adapters/test_peft_private.py` fails when an upgrade of PEFT moves one of them or changes its
signature; it also lists the private methods of PEFT that the adapters override or call.
"""

from peft.tuners.tuners_utils import (
    # Which entries of a state dict belong to an adapter: PEFT itself only warns of missing ones.
    _filter_state_dict_by_key_prefixes as filter_by_prefixes,
)
from peft.tuners.tuners_utils import (
    # Sizes of a layer of any kind, quantized and distributed ones included.
    _get_in_out_features as get_in_out_features,
)
from peft.tuners.tuners_utils import (
    # The prefixes for `filter_by_prefixes`.
    _get_tuner_state_dict_key_prefixes as adapter_key_prefixes,
)

__all__ = ["adapter_key_prefixes", "filter_by_prefixes", "get_in_out_features"]
