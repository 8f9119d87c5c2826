"""How configurations are read: strict YAML, fragments, construction of objects."""
