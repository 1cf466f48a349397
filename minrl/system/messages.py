"""Errors and values as one line of text, for messages."""

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST = 500  # characters of a value in a message


def one_line(value: object, longest: int = LONGEST) -> str:
    """Return a value's text, or an error's file and reason, on one line; an error without text gives its class.

    A text of more than `longest` characters loses those in its middle, and characters that a terminal acts on are
    replaced.
    """
    if isinstance(value, OSError) and value.strerror and value.filename is not None:
        return shortened(f"{value.filename}: {value.strerror}", longest)
    text = shortened(str(value), longest)
    return text or type(value).__name__ if isinstance(value, BaseException) else text


def with_class(error: BaseException) -> str:
    """Return an error's class and text on one line."""
    kind, text = type(error).__name__, one_line(error)
    return text if text == kind else f"{kind}: {text}"


def reason_of(error: BaseException) -> str:
    """Return an error on one line: the text alone of the kinds that input causes, the class too of others."""
    return one_line(error) if isinstance(error, ValueError | FloatingPointError | OSError) else with_class(error)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Return `text` on one line of at most `longest` printable characters, without its middle if it is longer."""
    words = " ".join(text.split())
    if len(words) > longest:
        head = 2 * longest // 3
        words = f"{words[:head]} ... {words[len(words) - (longest - head - 5) :]}"
    return "".join(letter if letter.isprintable() else "?" for letter in words)


@contextmanager
def faults_of(where: str) -> Iterator[None]:
    """Turn any error of reading a file inside the context into a ValueError of one line that begins with `where`.

    A ValueError that names `where` already passes unchanged.
    """
    try:
        yield
    except ValueError as error:
        if where in str(error):
            raise
        raise ValueError(f"{where}: {one_line(error)}") from error
    except PermissionError:
        raise
    except Exception as error:  # damaged files make their readers raise anything
        raise ValueError(f"{where} cannot be read: {with_class(error)}") from error
