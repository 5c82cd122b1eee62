def reason_of(error: Exception) -> str:
    """Take the first line of an error's message.

    Args:
        error (Exception): The error.

    Returns:
        str: The line, or the error's type where it has no message.
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class SetupError(ValueError):
    """A mistake in a config, a checkpoint or a path that its user can mend.

    Its message is one sentence that names what is wrong, where, and what to do. The command
    line tools print that sentence alone, without a traceback, and exit with status 1.
    """
