"""The exception that a user's input can cause, the one that the world around can, what they must not tell, and how a full disk is told from other faults."""

import errno
import re

URI = re.compile(r"(\b[A-Za-z][\w+.-]*://)([^\s'\"<>]+)")
PORT = re.compile(r":\d*$")
SECRET = re.compile(r"([?&;][^=&;]*(?:key|secret|token|password|passwd|pwd|signature|credential|\bsig)[^=&;]*=)[^&;,]*[^&;,:]", re.IGNORECASE)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # on the disk, in a quota, below the limit of a file's size


class BadInput(Exception):
    """The user's input cannot be used.

    The message is one clear sentence that says what was expected, what was found, and what to do. The command line
    prints it and exits with status 2; anything else that escapes is a defect and shows its traceback. It holds no credentials, wherever
    it comes from and goes to: those in URIs are left out.
    """

    def __init__(self, message: str):
        super().__init__(without_credentials(message))


class Unavailable(Exception):
    """What a command needs (an object store, an MLflow server) is away, and was for minutes. Nothing is wrong with the input.

    The message is one sentence, without credentials. The command line prints it and exits with status 75: the same command, repeated later,
    goes on. In a task or a worker, Ray tries again.
    """

    def __init__(self, message: str):
        super().__init__(without_credentials(message))


def without_credentials(text: str) -> str:
    """A text with *** for names, passwords and keys in its URIs, as in s3://KEY:SECRET@bucket, https://user:password@host and ?token=SECRET."""
    return URI.sub(lambda found: found[1] + _bare(found[2]), text)


def _bare(rest: str) -> str:
    """What follows a URI's scheme. A key may hold slashes, so that what looks like the host with a port that is no number ends at an @ after it."""
    host = rest.partition("/")[0]
    end = host.rfind("@") if "@" in host else rest.rfind("@") if ":" in PORT.sub("", host) else -1
    return SECRET.sub(r"\1***", "***@" + rest[end + 1:] if end >= 0 else rest)


def disk_full(problem: BaseException) -> bool:
    """Whether there was no room to write."""
    return isinstance(problem, OSError) and problem.errno in NO_ROOM
