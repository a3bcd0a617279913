"""A network of one's own: its ports are all free, and nobody outside can be reached."""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_network() -> Iterator[None]:
    """For the length of the block this thread, and whatever it starts, has nothing but a loopback. Needs root."""
    with open("/proc/thread-self/ns/net") as before:
        os.unshare(os.CLONE_NEWNET)
        try:
            _raise_loopback()
            yield
        finally:
            os.setns(before.fileno(), os.CLONE_NEWNET)


def _raise_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(any_socket, 0x8913, asked))[1]  # SIOCGIFFLAGS
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", flags | 1))  # SIOCSIFFLAGS, IFF_UP
