"""Pretrained backbones: loading, identity, Hub look-up, packed attention."""
