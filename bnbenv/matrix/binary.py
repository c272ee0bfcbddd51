"""Bounded reads out of untrusted binaries, and what a native library says of itself."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from bnbenv.errors import Failed

NAME_LIMIT = 4096  # bytes of one name in a string table; real ones are below 256


@dataclass(frozen=True)
class Binary:
    """What an object file says of itself.

    ``machine`` as in the facts (``x86_64``, ``aarch64``), ``needed`` the shared libraries it links, ``glibc`` and
    ``glibcxx`` the highest symbol versions it needs (``2.34``), ``fatbins`` the contents of its fatbin sections.
    """

    machine: str
    needed: tuple[str, ...]
    glibc: str | None
    glibcxx: str | None
    fatbins: tuple[Window, ...]


@dataclass(frozen=True)
class Window:
    """A part of a file that nothing is read outside of; ``what`` names it in errors."""

    view: memoryview
    what: str

    @classmethod
    def over(cls, data: bytes | memoryview, what: str) -> Window:
        return cls(memoryview(data), what)

    def __len__(self) -> int:
        return len(self.view)

    def damaged(self, because: str) -> Failed:
        """The error for content that cannot be what it claims to be."""
        return Failed("bad-binary", f"{self.what} is damaged: {because}", "Download the file again.")

    def foreign(self, because: str) -> Failed:
        """The error for content that may be whole, but is of a kind that bnbenv does not read."""
        return Failed("bad-binary", f"{self.what} cannot be read: {because}")

    def unpack(self, layout: struct.Struct, offset: int) -> tuple[int, ...]:
        """The fields at an offset in bytes. Raises Failed (``bad-binary``) outside the window."""
        if offset < 0 or offset + layout.size > len(self.view):
            raise self.damaged(f"{layout.size} bytes at offset {offset} lie outside its {len(self.view)} bytes")
        return layout.unpack_from(self.view, offset)

    def part(self, offset: int, size: int, what: str) -> Window:
        """A smaller window. Raises Failed (``bad-binary``) where it does not lie inside this one."""
        if offset < 0 or size < 0 or offset + size > len(self.view):
            raise self.damaged(f"{what} ({size} bytes at offset {offset}) lies outside its {len(self.view)} bytes")
        return Window(self.view[offset : offset + size], f"{self.what}: {what}")

    def name_at(self, offset: int) -> str:
        """The NUL-terminated string at an offset. Raises Failed (``bad-binary``) where it does not end."""
        if not 0 <= offset < len(self.view):
            raise self.damaged(f"a name at offset {offset} lies outside its {len(self.view)} bytes")
        text, end, _ = bytes(self.view[offset : offset + NAME_LIMIT]).partition(b"\0")
        if not end:
            raise self.damaged(f"the name at offset {offset} does not end")
        return text.decode("utf-8", "replace")
