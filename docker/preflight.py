"""The first service of docker-compose.yaml: refuses unsafe settings, then prepares the volumes.

Runs as root in a container without network, because a new volume may belong to root. Standard library only.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

PLACEHOLDER = "change-me"

_SIGNING_KEYS = ("AIRFLOW_JWT_SECRET", "AIRFLOW_API_SECRET_KEY")
_URL_PASSWORDS = ("POSTGRES_PASSWORD", "REDIS_PASSWORD")
_SECRETS = (*_SIGNING_KEYS, *_URL_PASSWORDS, "AIRFLOW_FERNET_KEY", "ADMIN_PASSWORD")


def problems(settings: Mapping[str, str]) -> list[str]:
    """Say what is wrong with the settings, each problem in one sentence that says what to do; never a value."""
    left = [name for name in _SECRETS if settings.get(name, "").startswith(PLACEHOLDER)]
    found = [f"{name} is still the placeholder of .env.example; set it, or run docker/make-env.sh." for name in left]
    found += [
        problem
        for name, check in _CHECKS.items()
        if name not in left and (problem := check(name, settings.get(name, "")))
    ]
    given = [value for name in _SECRETS if name not in left and (value := settings.get(name))]
    if len(set(given)) < len(given):
        found.append("Two of the secrets are the same; give each its own.")
    return found


def prepare(directories: Sequence[Path], passwords: Path, settings: Mapping[str, str], group: int = 0) -> None:
    """Give the directories to Airflow's user, whose group in the image is 0, and write the password file."""
    owner = int(settings["AIRFLOW_UID"])
    for directory in directories:
        directory.mkdir(parents=True, exist_ok=True)
        os.chown(directory, owner, group)
        directory.chmod(0o770)
    new = passwords.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump({settings["ADMIN_USER"]: settings["ADMIN_PASSWORD"]}, file)
        os.fchown(file.fileno(), owner, group)
    new.replace(passwords)


def _signing_key(name: str, value: str) -> str:
    return "" if len(value) >= 32 else f"{name} needs 32 characters or more."


def _url_password(name: str, value: str) -> str:
    good = re.fullmatch(r"[A-Za-z0-9._~-]{12,}", value)
    return "" if good else f"{name} stands in a URL; it needs 12 or more letters, digits and . _ ~ - only."


def _fernet_key(name: str, value: str) -> str:
    try:
        good = len(base64.b64decode(value.encode(), altchars=b"-_", validate=True)) == 32
    except binascii.Error:
        good = False
    return "" if good else f"{name} is no Fernet key: 32 bytes in URL-safe base64, 44 characters."


def _login_password(name: str, value: str) -> str:
    return "" if len(value) >= 12 else f"{name} needs 12 characters or more."


def _login_name(name: str, value: str) -> str:
    good = re.fullmatch(r"[A-Za-z0-9._@-]+", value)
    return "" if good else f"{name} needs letters, digits and . _ @ - only."


def _user_id(name: str, value: str) -> str:
    return "" if re.fullmatch(r"[1-9][0-9]{0,8}", value) else f"{name} needs a user id other than 0."


_CHECKS = {
    **dict.fromkeys(_SIGNING_KEYS, _signing_key),
    **dict.fromkeys(_URL_PASSWORDS, _url_password),
    "AIRFLOW_FERNET_KEY": _fernet_key,
    "ADMIN_PASSWORD": _login_password,
    "ADMIN_USER": _login_name,
    "AIRFLOW_UID": _user_id,
}


def main(arguments: Sequence[str], settings: Mapping[str, str]) -> int:
    """Check and prepare; the arguments are the directories."""
    if found := problems(settings):
        sys.stderr.write("\n".join(["Nothing is started, because of the settings in .env:", *found, ""]))
        return 1
    prepare([Path(argument) for argument in arguments], Path(settings["PASSWORDS_FILE"]), settings)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
