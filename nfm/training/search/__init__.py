"""Search for better settings (Optuna)."""
