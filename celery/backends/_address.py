"""Where a service is and who asks it, as a URL says."""

from __future__ import annotations

from kombu.utils.url import _parse_url


class Address:
    """A service that speaks HTTP; what the URL leaves out is as the class says."""

    scheme = "http"
    host = "localhost"
    port = 80
    username: str | None = None
    password: str | None = None

    def _take_address(self, url: str | None) -> str:
        """Take all but the path from *url*; return the path, without slashes around it."""
        if not url:
            return ""
        scheme, host, port, user, password, path, _ = _parse_url(url)
        self.scheme = "https" if scheme == "https" else self.scheme
        self.host, self.port = host or self.host, port or self.port
        self.username, self.password = user or self.username, password or self.password
        return (path or "").strip("/")

    @property
    def _login(self) -> tuple[str, str] | None:
        """Name and password, where there are both."""
        return (self.username, self.password) if self.username and self.password else None
