"""What the options say of how to be let in, read from where they say."""

from __future__ import annotations

import argparse
import base64
import os
import ssl
from collections.abc import Callable
from pathlib import Path

from agent.sources.prometheus import TOKEN_VARIABLE, Access


def load_access(options: argparse.Namespace, problems: list[str]) -> Access:
    """Credentials, authorities and headers; what is wrong with them or with their files is added."""
    if (options.username is None) != (options.password_file is None):
        problems.append("--username and --password-file go together")
    if (options.cert_file is None) != (options.key_file is None):
        problems.append("--cert-file and --key-file go together")
    headers = dict(options.header)
    if options.tenant is not None:
        headers["X-Scope-OrgID"] = options.tenant
    password, token = (
        None if path is None else _load_secret(path, problems)
        for path in (options.password_file, options.bearer_token_file)
    )
    if options.username is not None and password is not None:
        pair = f"{options.username}:{password}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    verify: bool | str = True
    if options.ca_file is not None:
        verify = str(options.ca_file)
        _try((options.ca_file,), "not PEM", lambda: ssl.create_default_context(cafile=verify), problems)
    certificate = None
    if options.cert_file is not None and options.key_file is not None:
        certificate = str(options.cert_file), str(options.key_file)
        # A key may be protected: then there is nobody to ask for its password.
        _try(
            (options.cert_file, options.key_file),
            "not PEM, or no pair, or protected by a password",
            lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(*certificate, password=""),
            problems,
        )
    if token is None:
        token = os.environ.get(TOKEN_VARIABLE)
    if token is not None and not (token.isascii() and token.isprintable()):
        origin = options.bearer_token_file or TOKEN_VARIABLE
        problems.append(f"{origin}: has characters that no token has; a line end, perhaps?")
    return Access(
        bearer_token=token,
        headers=headers,
        verify=verify,
        certificate=certificate,
    )


def _load_secret(path: Path, problems: list[str]) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problems.append(f"{path}: cannot be read: {getattr(error, 'strerror', 'not text')}")
        return None


def _try(paths: tuple[Path, ...], otherwise: str, load: Callable[[], object], problems: list[str]) -> None:
    """Whether TLS can have the files; the library does not say which of them it means."""
    unread = False
    for path in paths:
        try:
            path.read_bytes()
        except OSError as error:
            problems.append(f"{path}: cannot be read: {error.strerror}")
            unread = True
    if unread:
        return
    try:
        load()
    except (ssl.SSLError, OSError):
        problems.append(f"{', '.join(map(str, paths))}: cannot be read: {otherwise}")
