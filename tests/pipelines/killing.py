"""A kill at an exact place, in the test's own process."""

from collections.abc import Callable


class Killed(BaseException):
    """Stands for SIGKILL."""


def killing(real: Callable, calls: int = 0) -> Callable:
    """`real`, until it was called so many times; the next call kills instead."""
    count = []

    def called(*arguments, **options):
        count.append(1)
        if len(count) > calls:
            raise Killed
        return real(*arguments, **options)

    return called
