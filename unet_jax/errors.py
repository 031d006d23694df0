"""The one exception that the command line turns into a message instead of a traceback."""


class InputError(ValueError):
    """What the user gave cannot be used. The message names the file or field, the value, and what to do.

    One class for damaged data and wrong settings: often nobody can tell them apart (a mask that does not fit its
    image, a release of another year), and the way out is in the message, not in the type.
    """
