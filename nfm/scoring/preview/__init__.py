"""Previews of a run: --plan and --parity."""
