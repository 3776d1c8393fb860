"""Colours and pictures for terminals."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable
from typing import Any

__all__ = ("colored",)

BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE = range(8)
OP_SEQ = "\033[%dm"
RESET_SEQ = "\033[0m"
COLOR_SEQ = "\033[1;%dm"

IS_WINDOWS = sys.platform == "win32"
ITERM_PROFILE = os.environ.get("ITERM_PROFILE")
TERM = os.environ.get("TERM", "")
TERM_IS_SCREEN = TERM.startswith("screen")


def fg(s: int) -> str:
    """Return the sequence that selects the foreground colour *s*."""
    return COLOR_SEQ % s


def _painter(op: str) -> Callable[..., colored]:
    def paint(self: colored, *s: Any) -> colored:
        return self.node(s, op)

    return paint


class colored:
    """
    Text with colours: ``str(colored().red("no ", colored().bold("way")))``.

    Parts may be coloured themselves; the colour around them resumes where they end.

    Args:
        s: The parts.
        kwargs: ``enabled=False`` leaves every sequence out; ``op`` is the sequence to begin with.
    """

    def __init__(self, *s: Any, **kwargs: Any) -> None:
        self.s: tuple[Any, ...] = s
        self.enabled: bool = not IS_WINDOWS and kwargs.get("enabled", True)
        self.op: str = kwargs.get("op", "")
        self.names: dict[str, Callable[..., colored]] = {
            name: getattr(self, name)
            for name in ("black", "red", "green", "yellow", "blue", "magenta", "cyan", "white")
        }

    black = _painter(fg(30 + BLACK))
    red = _painter(fg(30 + RED))
    green = _painter(fg(30 + GREEN))
    yellow = _painter(fg(30 + YELLOW))
    blue = _painter(fg(30 + BLUE))
    magenta = _painter(fg(30 + MAGENTA))
    cyan = _painter(fg(30 + CYAN))
    white = _painter(fg(30 + WHITE))
    bold = _painter(OP_SEQ % 1)
    underline = _painter(OP_SEQ % 4)
    blink = _painter(OP_SEQ % 5)
    reverse = _painter(OP_SEQ % 7)
    bright = _painter(OP_SEQ % 8)
    ired = _painter(fg(40 + RED))
    igreen = _painter(fg(40 + GREEN))
    iyellow = _painter(fg(40 + YELLOW))
    iblue = _painter(fg(40 + BLUE))
    imagenta = _painter(fg(40 + MAGENTA))
    icyan = _painter(fg(40 + CYAN))
    iwhite = _painter(fg(40 + WHITE))

    def node(self, s: Any, op: str) -> colored:
        """Make coloured text of the parts *s* that begins with the sequence *op*."""
        return type(self)(*s, enabled=self.enabled, op=op)

    def reset(self, *s: Any) -> colored:
        """Make text of the parts that starts from the colours of the terminal."""
        return self.node(s or ("",), RESET_SEQ)

    def no_color(self) -> str:
        """Return the text without any sequence."""
        return "".join(p.no_color() if isinstance(p, colored) else str(p) for p in self.s)

    def embed(self) -> str:
        """Return the text with its sequences, without the one that ends them."""
        out = [self.op]
        for number, part in enumerate(self.s, 1):
            if isinstance(part, colored):
                out.append(part.embed())
                if part.op and number < len(self.s):
                    out.append(RESET_SEQ + self.op)
            else:
                out.append(str(part))
        return "".join(out)

    def __str__(self) -> str:
        if not self.enabled:
            return self.no_color()
        return f"{self.embed()}{RESET_SEQ}"

    def __repr__(self) -> str:
        return repr(self.no_color())

    def __add__(self, other: object) -> str:
        return f"{self}{other}"


def supports_images() -> bool:
    """Say whether the terminal can show pictures in the text (iTerm2 can)."""
    return sys.stdout.isatty() and bool(ITERM_PROFILE or os.environ.get("LC_TERMINAL") == "iTerm2")


def imgcat(path: str, inline: int = 1, preserve_aspect_ratio: int = 0, **kwargs: Any) -> str:
    """Return the sequence that shows the picture in the file *path*."""
    with open(path, "rb") as picture:
        content = base64.b64encode(picture.read()).decode()
    options = {"inline": inline, "preserveAspectRatio": preserve_aspect_ratio, **kwargs}
    described = ";".join(f"{name}={value}" for name, value in options.items())
    start, end = "\033]1337;File=", "\a"
    if TERM_IS_SCREEN:  # it passes a sequence through if wrapped in one of its own
        start, end = f"\033Ptmux;\033{start}", f"{end}\033\\"
    return f"{start}{described}:{content}{end}"
