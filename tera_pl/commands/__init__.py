"""What is no verb of the Trainer."""
