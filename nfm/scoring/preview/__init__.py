"""What --plan and --parity show before a run."""
