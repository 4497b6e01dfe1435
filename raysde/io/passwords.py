"""Passwords in URIs, such as ``s3://KEY:SECRET@bucket`` or ``postgresql://user:password@host``, hidden from readers."""

import re

PASSWORD = re.compile(r"(://[^\s/@:'\"]*):[^\s/@'\"]+@")


def hide_passwords(text: str) -> str:
    """Return a text with the password of each URI in it replaced by ``***``."""
    return PASSWORD.sub(r"\1:***@", text)
