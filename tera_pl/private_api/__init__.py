"""Private names of libraries, one module per library; all other modules use public names only.

A test per module fails when a new version of the library moves or changes one of these names.
PEFT's private names are in `tera_pl.adapters.peft_private`.
"""
