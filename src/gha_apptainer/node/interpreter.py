"""`signal` and `socket` as the interpreter itself has them.

The modules of those names wrap these in enums and classes for convenience, and loading that takes a start of a container 4 ms. What is
missing below: constants are plain numbers, handlers too (SIG_DFL is 0), and a socket is no context manager.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    import socket
else:
    import _signal as signal
    import _socket as socket

__all__ = ["signal", "socket"]
