"""Length of the fuzz tests: seconds in `make test`, minutes with FUZZ=full (`make fuzz`)."""

import os

FULL = os.environ.get("FUZZ") == "full"
