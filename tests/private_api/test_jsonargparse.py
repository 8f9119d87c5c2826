"""jsonargparse's private names do what the project uses them for."""

from jsonargparse import ArgumentParser

from tera_pl.private_api.jsonargparse import type_hints


class Settings:
    def __init__(self, path: str, sizes: list[int] | None = None) -> None:
        """Arguments of many types."""


def test_type_of_every_argument():
    parser = ArgumentParser()
    parser.add_argument("--number", type=int | None)
    parser.add_argument("--untyped")
    parser.add_class_arguments(Settings, "nested")
    parser.add_subclass_arguments(Settings, "any")
    assert type_hints(parser) == {
        "number": int | None,
        "nested.path": str,
        "nested.sizes": list[int] | None,
        "any": Settings | None,
    }
