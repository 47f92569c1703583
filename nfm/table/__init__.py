"""The raw table: what it is, and how tasks read it. The feature job and the score job share it."""
