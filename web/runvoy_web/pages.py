"""The viewer's files as they are handed out: their addresses, types, caching, and what a browser is told to forbid them.

The page is at `/` (and `/web/`), everything it loads under `/web/DIGEST/`, the digest being that of all files together: those
may be kept for ever, and the files of two versions never mix. What asks for another digest is told that there is none.
"""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from typing import NamedTuple

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_INDEX = "index.html"
_DIGEST_LENGTH = 16
_OWN_FILE = re.compile(rb'((?:href|src)=")\./')
_PLACES = frozenset({"/", "/index.html", "/web", "/web/", "/web/index.html"})
_DOCUMENTS = frozenset({".html", ".svg"})
_OF_EVERY_FILE = (("X-Content-Type-Options", "nosniff"), ("Cross-Origin-Resource-Policy", "same-origin"))
_FOREVER = "public, max-age=31536000, immutable"
_LOOK_AGAIN = "no-cache"


class File(NamedTuple):
    """`data` is gzip-compressed; the etag is that of the text behind it. `is_document`: a browser may show it as a page of its own,
    and keeps to the policy that came with it."""

    data: bytes
    content_type: str
    etag: str
    cache_control: str
    is_document: bool


class Served(NamedTuple):
    """An answer: 200, 304 without a body, or 405. For HEAD the body is to be left out."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...]


def serve(method: str, path: str, headers: Mapping[str, str], connect_to: Sequence[str] = ()) -> Served | None:
    """The answer to a request for one of the viewer's files; None if there is none at `path`.

    `headers` are the request's, names in lower case. `connect_to` are origins beside its own that the page must reach: those
    of buckets, where a deployment has some.
    """
    found = _files().get(path)
    if found is None:
        return None
    told = (
        ("Cache-Control", found.cache_control),
        ("ETag", found.etag),
        ("Vary", "Accept-Encoding"),
        *_OF_EVERY_FILE,
        *(security_headers(connect_to) if found.is_document else ()),
    )
    if method not in ("GET", "HEAD"):
        return Served(405, b"", (("Allow", "GET, HEAD"), *told))
    if found.etag in re.split(r"\s*,\s*", headers.get("if-none-match", "").replace("W/", "")):
        return Served(304, b"", told)
    kind = ("Content-Type", found.content_type)
    if "gzip" in headers.get("accept-encoding", ""):
        return Served(200, found.data, (kind, ("Content-Encoding", "gzip"), *told))
    return Served(200, gzip.decompress(found.data), (kind, *told))


def security_headers(connect_to: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    """What the page may not do, whatever comes to be in it: run a script that is not among its files, make one or markup of
    text, be framed, load from or send to anywhere else, tell others where it was opened from. They count for documents: sent
    with each module too they would be a quarter of all that a first visit loads."""
    policy = (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        " ".join(("connect-src 'self'", *connect_to)),
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return (
        ("Content-Security-Policy", "; ".join(policy)),
        ("X-Frame-Options", "DENY"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Opener-Policy", "same-origin"),
        ("Permissions-Policy", "camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
    )


@cache
def _files() -> Mapping[str, File]:
    """Every file by its address; read when the first one is asked for."""
    contents = dict(_contents(resources.files("runvoy_web"), ""))
    whole = hashlib.sha256()
    for name in sorted(contents):
        whole.update(b"%b\0%d\0%b" % (name.encode(), len(contents[name]), contents[name]))
    digest = whole.hexdigest()[:_DIGEST_LENGTH]
    files = {f"/web/{digest}/{name}": _file(name, data, _FOREVER) for name, data in contents.items() if name != _INDEX}
    # The repository's page names its files as they lie beside it, so that any plain web server can hand it out.
    page = _OWN_FILE.sub(rb"\1/web/%b/" % digest.encode(), contents[_INDEX])
    # All modules are asked for at once; else each is known only when the one that imports it has come.
    modules = "".join(f'<link rel="modulepreload" href="{address}">' for address in sorted(files) if ".js" in address)
    page = page.replace(b"</head>", modules.encode() + b"</head>")
    return files | dict.fromkeys(_PLACES, _file(_INDEX, page, _LOOK_AGAIN))


def _file(name: str, data: bytes, cache_control: str) -> File:
    suffix = name[name.rindex(".") :]
    etag = f'"{hashlib.sha256(data).hexdigest()[:32]}"'
    return File(gzip.compress(data, mtime=0), _TYPES[suffix], etag, cache_control, suffix in _DOCUMENTS)


def _contents(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _contents(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(tuple(_TYPES)):
            yield f"{prefix}{entry.name}", entry.read_bytes()
