"""The case in which a loop over several failed."""

from contextlib import contextmanager


@contextmanager
def naming(*case):
    """Whatever is raised inside, a failed assertion too, says in which case of a loop it was."""
    try:
        yield
    except BaseException as error:
        error.__notes__ = [*getattr(error, "__notes__", []), f"in the case of {', '.join(map(str, case))}"]
        raise
