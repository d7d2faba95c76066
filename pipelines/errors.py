"""The one exception that a user's input can cause."""


class BadInput(Exception):
    """The user's input cannot be used.

    The message is one clear sentence that says what was expected, what was found, and what to do. The command line
    prints it and exits with status 2; anything else that escapes is a defect and shows its traceback.
    """
