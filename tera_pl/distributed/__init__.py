"""Several processes: FSDP2, DDP and the strategy of Lightning."""
