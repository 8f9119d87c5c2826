"""Configurations: strict YAML, fragments (`base:`), instantiation of the objects they name."""
