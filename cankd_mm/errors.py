class SetupError(ValueError):
    """A mistake in a config, a checkpoint or a path that its user can mend.

    Its message is one sentence that names what is wrong, where, and what to do. The command
    line tools print that sentence alone, without a traceback, and exit with status 1.
    """
