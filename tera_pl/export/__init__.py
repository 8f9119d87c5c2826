"""What a run has trained, as a folder for other programs."""
