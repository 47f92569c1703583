"""Errors that a user can cause. Each message gives the rule, the value found, where, and what to do."""


class NfmError(Exception):
    """Base class of all errors that are shown to the user without a traceback."""

    exit_code = 1


class ConfigError(NfmError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class GateError(NfmError):
    """The table exceeds a gate, a limit on its difference from the training data; nothing is published."""

    exit_code = 4


class DataError(NfmError):
    """A table, a dataset or a model is missing, damaged or does not fit the others."""

    exit_code = 3


class DivergedError(DataError):
    """A training's weights or outputs are not finite; other settings may avoid it."""
