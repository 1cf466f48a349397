"""Errors and values as one line of text, for messages."""


def one_line(value: object) -> str:
    """Return a value's text, or an error's file and reason, on one line; an error without text gives its class."""
    if isinstance(value, OSError) and value.strerror and value.filename is not None:
        return f"{value.filename}: {value.strerror}"
    text = " ".join(str(value).split())
    return text or type(value).__name__ if isinstance(value, BaseException) else text
