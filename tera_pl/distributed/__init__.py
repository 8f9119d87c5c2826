"""Training with several processes: FSDP2, DDP and Lightning's strategy for them."""
