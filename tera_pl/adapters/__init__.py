"""Parameter-efficient methods that PEFT lacks, as PEFT methods.

Importing this package registers them with PEFT: `peft.get_peft_model` and
`peft.PeftModel.from_pretrained` then support them.
"""

from tera_pl.adapters.lora_conversion import register_conversion
from tera_pl.adapters.lora_xs import LoraXsConfig, LoraXsModel
from tera_pl.adapters.loretta import LorettaConfig, LorettaModel
from tera_pl.adapters.lotr import LotrConfig, LotrModel
from tera_pl.adapters.mora import MoraConfig, MoraModel
from tera_pl.adapters.nola import NolaConfig, NolaModel
from tera_pl.adapters.registration import register
from tera_pl.adapters.targets import check_targets, choose_targets
from tera_pl.adapters.tera import TeraConfig, TeraModel

register("tera", TeraConfig, TeraModel)
register("loretta", LorettaConfig, LorettaModel)
register("mora", MoraConfig, MoraModel)
register("lotr", LotrConfig, LotrModel)
register("loraxs", LoraXsConfig, LoraXsModel)
register("nola", NolaConfig, NolaModel)
register_conversion()

__all__ = [
    "LoraXsConfig",
    "LorettaConfig",
    "LotrConfig",
    "MoraConfig",
    "NolaConfig",
    "TeraConfig",
    "check_targets",
    "choose_targets",
]
