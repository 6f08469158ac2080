"""Who may ask the server for what: hosts, origins, tokens, and what a page may load."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from ctglip.errors import CTGLIPError

COOKIE = "ctglip_session"
HEADER = "X-CTGLIP-Token"
SAFE = ("GET", "HEAD", "OPTIONS")
_SHORTEST = 16
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "worker-src 'self' blob:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token of a file that nobody else can read.

    Raises:
        CTGLIPError: code ``bad_token``: the file is missing, readable by others, or its token too short.
    """
    try:
        token, mode = path.read_text(encoding="utf-8").strip(), path.stat().st_mode
    except (OSError, UnicodeDecodeError) as error:
        raise CTGLIPError(f"The token file {path} cannot be read.", code="bad_token", fix="Check the path.") from error
    if mode & 0o077:
        raise CTGLIPError(f"Others can read {path}.", code="bad_token", fix=f"Run: chmod 600 {path}")
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable():
        raise CTGLIPError(
            f"The token in {path} must have at least {_SHORTEST} plain characters.",
            code="bad_token",
            fix=f"Make one: head -c 24 /dev/urandom | base64 > {path}",
        )
    return token


class Guard:
    """Checks each request before anything else does.

    Host names other than those of this machine are refused where no token is asked for (a page of another site that
    was given our address). What changes something must come from our own pages (``Origin``, ``Sec-Fetch-Site``) and
    carry the token that only those who can read our answers know (header ``X-CTGLIP-Token``).

    Args:
        token: that each request must show (``Authorization: Bearer``, or the cookie of the login page); None: none.

    Attributes:
        csrf: the token of changes; new with each start.
    """

    def __init__(self, token: str | None) -> None:
        self._token = token
        self.csrf = secrets.token_urlsafe(24)
        self._session = secrets.token_urlsafe(24)

    @property
    def asks_for_token(self) -> bool:
        """Whether there is a login."""
        return self._token is not None

    def login(self, token: str) -> str | None:
        """The cookie of a browser that knows the token; None for a wrong one."""
        if self._token is None or not hmac.compare_digest(token.strip().encode(), self._token.encode()):
            return None
        return self._session

    async def __call__(self, request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        """Answer a request, or refuse it."""
        response = self._refusal(request) or await call_next(request)
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)
        if request.url.path.startswith("/api"):
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    def _refusal(self, request: Request) -> Response | None:
        path = request.scope["path"]  # as it is routed; what request.url says may rest on the Host header
        if self._token is None and not is_loopback(_host_name(request)):
            return refused(421, "This server answers to 127.0.0.1 and localhost alone.", "bad_host")
        if path in ("/login", "/health", "/pages.css") or path.startswith("/static/"):
            return None if request.method in SAFE or self._is_ours(request) else _foreign()
        if self._token is not None and not self._is_known(request):
            if path.startswith("/api") or request.method not in SAFE:
                return refused(401, "Show the token: Authorization: Bearer TOKEN.", "no_token")
            return RedirectResponse("/login", status_code=303)
        if request.method in SAFE:
            return None
        if not self._is_ours(request):
            return _foreign()
        if not hmac.compare_digest(request.headers.get(HEADER, "").encode(), self.csrf.encode()):
            return refused(403, f"The header {HEADER} is missing or of another start.", "no_csrf")
        return None

    def _is_known(self, request: Request) -> bool:
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer" and self.login(token) is not None:
            return True
        return hmac.compare_digest(request.cookies.get(COOKIE, "").encode(), self._session.encode())

    def _is_ours(self, request: Request) -> bool:
        """Not from another site's page; programs send neither header."""
        if request.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
            return False
        origin = request.headers.get("Origin")
        return origin is None or origin.partition("://")[2] == request.headers.get("Host")


def _host_name(request: Request) -> str:
    """What the Host header names; nothing where it is missing or damaged, for which ``request.url`` has our own."""
    try:
        return urlsplit(f"//{request.headers.get('Host', '')}").hostname or ""
    except ValueError:
        return ""


def refused(status: int, message: str, code: str, fix: str = "") -> JSONResponse:
    """An error as all errors of the API look."""
    return JSONResponse({"error": {"message": message, "code": code, "fix": fix}}, status_code=status)


def _foreign() -> Response:
    return refused(403, "The request comes from another site.", "other_origin")
