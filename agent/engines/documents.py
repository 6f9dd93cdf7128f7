"""The JSON documents of a server's own interface, fetched within limits and kept for its lifetime.

Each is a favour: one that fails costs only what it would have told, is said once in words, and is asked
for again much later, since a server writes a line into its log for each request it refuses.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

import requests

from agent.engines.base import Document, Documents
from agent.errors import SourceError
from agent.sources.page import Page, PageLimits, fetch_page

DOCUMENT_LIMITS = PageLimits(max_bytes=2**20, deadline_seconds=1.5)
ASK_AGAIN_READS = 12
"""After how many reads of the page a document that failed is asked for again: a minute, by default."""
REFUSED_READS = 720
"""The same where the server answered that it has no such thing, or not for us."""


def root_of(url: str, page_paths: Collection[str]) -> str | None:
    """The server's root, where its page is at one of these paths under it; `None` if it is elsewhere."""
    parts = urlsplit(url)
    path = parts.path.rstrip("/")
    for page_path in sorted(page_paths, key=len, reverse=True):
        if path.endswith(page_path):
            return f"{parts.scheme}://{parts.netloc}{path.removesuffix(page_path)}"
    return None


class DocumentShelf:
    """What one server has given so far."""

    def __init__(self, *, session: requests.Session, headers: Mapping[str, str]) -> None:
        self._session = session
        self._headers = {**headers, "Accept": "application/json"}
        self._kept: dict[str, Any] = {}
        self._failures: dict[str, str] = {}
        # By name of the document: how many reads it is left alone.
        self._rests: dict[str, int] = {}

    @property
    def problems(self) -> tuple[str, ...]:
        """Why documents are missing, in words."""
        return tuple(self._failures.values())

    def forget(self) -> None:
        """The server is another one now."""
        self._kept.clear()
        self._failures.clear()
        self._rests.clear()

    def gather(self, root: str, documents: Collection[Document], page: Page) -> Documents:
        """All that can be had beside this page, by name; those kept are not asked for again."""
        live: dict[str, Any] = {}
        for document in documents:
            if document.name in self._kept or (document.when is not None and not document.when(page)):
                continue
            if self._rests_now(document.name):
                continue
            try:
                value = self._fetch(root, document)
            except SourceError as error:
                self._failures[document.name] = str(error)
                self._rests[document.name] = (
                    REFUSED_READS if error.reason == "http_status" else ASK_AGAIN_READS
                )
                if error.reason == "timeout":
                    break  # it is busy: no more questions at this read
                continue
            self._failures.pop(document.name, None)
            (live if document.live else self._kept)[document.name] = value
        return {**self._kept, **live}

    def _rests_now(self, name: str) -> bool:
        rest = self._rests.get(name, 0)
        self._rests[name] = rest - 1
        return rest > 0

    def _fetch(self, root: str, document: Document) -> Any:
        subject = f"{document.name} of {urlsplit(root).netloc}"
        body = fetch_page(
            root + document.path,
            session=self._session,
            limits=DOCUMENT_LIMITS,
            headers=self._headers,
            subject=subject,
        )
        try:
            return json.loads(body)
        except (ValueError, RecursionError):  # RecursionError: a hundred thousand brackets
            raise SourceError("malformed", f"{subject}: the answer is not JSON") from None
