"""What is wrong with a file, and where."""


class CodecError(ValueError):
    """A file that is damaged, cut short, of another kind or of another version."""
