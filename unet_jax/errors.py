"""The one exception that the command line turns into a message instead of a traceback."""


class InputError(ValueError):
    """What the user gave cannot be used. The message names the file or field, the value, and what to do."""
