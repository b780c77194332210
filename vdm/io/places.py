"""Places that a user names: folders and files of this machine, not addresses."""

# Nothing heavy is imported: the command line asks it before anything else.
import os
import re

_REMOTE = "gs|s3a?|https?|s?ftp|hdfs|az|abfss?|wasbs?|file"


def check_local(name: str, place: str | os.PathLike | None) -> None:
    """ValueError where `place`, the value of `name`, is an address such as gs://bucket/run.

    A pathlib.Path has made gs:/bucket of it, which would be a local folder named "gs:".
    """
    text = os.fspath(place) if place is not None else ""
    if re.match(rf"[a-z][a-z0-9+.-]*://|({_REMOTE}):/", text, re.IGNORECASE):
        raise ValueError(
            f"{name}={text} is a URL, and only folders and files of this machine can be read and "
            "written: mount it (a bucket with gcsfuse or mountpoint-s3, say) and give the path "
            "where it is mounted"
        )
