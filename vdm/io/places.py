"""Checks paths given by the user, which must be folders and files of this machine, not URLs."""

# Nothing slow is imported, because the command line uses this before anything else.
import os
import re

_REMOTE = "gs|s3a?|https?|s?ftp|hdfs|az|abfss?|wasbs?|file"


def check_local(name: str, place: str | os.PathLike | None) -> None:
    """Raises ValueError if `place`, the value of the flag or field `name`, is a URL.

    pathlib.Path turns gs://bucket into gs:/bucket, which would be a local folder named "gs:".
    """
    text = os.fspath(place) if place is not None else ""
    if re.match(rf"[a-z][a-z0-9+.-]*://|({_REMOTE}):/", text, re.IGNORECASE):
        raise ValueError(
            f"{name}={text} is a URL, but only folders and files of this machine can be read and "
            "written: mount it (for a bucket, with gcsfuse or mountpoint-s3) and give the path "
            "where it is mounted"
        )
