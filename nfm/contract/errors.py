"""The errors a user can cause. Each says the rule, the value received, where, and what to do."""


class NfmError(Exception):
    """Base of all errors that are told to the user without a traceback."""

    exit_code = 1


class ConfigError(NfmError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class GateError(NfmError):
    """The table is unlike what the model knows, more than the settings allow: nothing is published."""

    exit_code = 4


class DataError(NfmError):
    """A table, a dataset or an artifact breaks its contract."""

    exit_code = 3


class DivergedError(DataError):
    """A training's weights or outputs are not finite; other settings may avoid it."""
