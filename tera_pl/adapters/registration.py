"""Register a method with PEFT, which has no public way to add one."""

from peft import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method


def register(name: str, config: type[PeftConfig], model: type[BaseTuner]) -> None:
    """Register a method under a name; does nothing if it is registered already.

    PEFT registers only names that its enumeration `PeftType` lists, so a member is added first.

    Args:
        name: Lower-case name; its upper case becomes the `peft_type` in saved configurations.
        config: Configuration class.
        model: Tuner class, with `prefix` equal to `<name>_`.
    """
    upper = name.upper()
    if upper in PeftType.__members__:
        return
    member = str.__new__(PeftType, upper)
    member._name_ = upper
    member._value_ = upper
    type.__setattr__(PeftType, upper, member)
    PeftType._member_names_.append(upper)
    PeftType._member_map_[upper] = member
    PeftType._value2member_map_[upper] = member
    register_peft_method(name=name, config_cls=config, model_cls=model)
