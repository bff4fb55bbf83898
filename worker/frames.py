"""What a converter's parent and child say to each other: frames of four bytes of length and msgpack, over the child's
stdin and stdout.

    parent                               child
                                     <-  Ready(cpu_s)       the libraries are loaded
    Convert(source, target, options) ->
                                     <-  Hold(pixels, …)    the header was read: may this picture be decoded?
    Go(refusal)                      ->                     once the memory is free; or why it never will be
                                     <-  Release()          its memory is free again
                                     <-  Done or Failed
"""

import struct
from typing import Any, Final, Generic, TypeVar

import msgspec

READ_BYTES: Final = 65536
MEMORY: Final = "memory"
UNEXPECTED: Final = "unexpected"
_LENGTH: Final = struct.Struct("<I")
T = TypeVar("T")


class Convert(msgspec.Struct, tag=True, frozen=True):
    """Convert the file `source` into `target`. `cpu_s`: processor seconds after which the kernel ends the child."""

    source: str
    target: str
    options: dict[str, Any]
    cpu_s: int


class Go(msgspec.Struct, tag=True, frozen=True):
    """The answer to Hold: go on, or the sentence that says why not."""

    refusal: str | None = None


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The child has loaded its libraries, for so many processor seconds: what ends it from here on is the file's
    doing."""

    cpu_s: float = 0.0


class Hold(msgspec.Struct, tag=True, frozen=True):
    """A picture of so many pixels is about to be decoded, which takes `extra` bytes a pixel beyond what all do."""

    pixels: int
    extra: float = 0.0


class Release(msgspec.Struct, tag=True, frozen=True):
    """The last picture that was asked for is decoded, or given up."""


class Done(msgspec.Struct, tag=True, frozen=True):
    """The fields of `Converted`, and what the conversion took: processor seconds, bytes of memory at the highest."""

    converted: dict[str, Any]
    cpu_s: float
    peak_bytes: int


class Failed(msgspec.Struct, tag=True, frozen=True):
    """The class of a `WorkerError`, MEMORY or UNEXPECTED, and its sentence; with UNEXPECTED also where it happened."""

    error: str
    sentence: str
    cpu_s: float
    trace: str | None = None


ToChild = Convert | Go
ToParent = Ready | Hold | Release | Done | Failed


class Frames(Generic[T]):
    """Puts together the messages that arrive in parts."""

    def __init__(self, kind: Any) -> None:
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def feed(self, part: bytes) -> None:
        """Takes what arrived."""
        self._buffer += part

    def next(self) -> T | None:
        """The next whole message, or None."""
        if len(self._buffer) < _LENGTH.size:
            return None
        end = _LENGTH.size + _LENGTH.unpack_from(self._buffer)[0]
        if len(self._buffer) < end:
            return None
        body = bytes(self._buffer[_LENGTH.size : end])
        del self._buffer[:end]
        return self._decoder.decode(body)


def framed(message: ToChild | ToParent) -> bytes:
    """A message as it is sent."""
    body = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(body)) + body
