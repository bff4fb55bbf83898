"""Everything that can go wrong and that a caller can act on: one class each, its HTTP status beside it.

ArkeError
├── InvalidInput        400  invalid_input
│   ├── EmptyBatch      400  empty_batch
│   └── TooManyFiles    400  too_many_files
├── Unauthorized        401  unauthorized
├── Forbidden           403  forbidden
├── NotFound            404  not_found
├── Conflict            409  conflict
│   └── BatchExists     409  batch_exists
├── Retired             410  retired
├── Expired             410  expired
├── TooLarge            413  too_large
├── ProviderAway        502  provider_unavailable
├── Unavailable         503  unavailable (Retry-After)
└── Fenced              never leaves the engine: another activation has taken over
"""

from typing import ClassVar, Final

CANNOT_WRITE: Final = "The store cannot write at the moment. Send the same request again."
"""Of Unavailable where the disk is full or broken; also what /health then says of the store."""


class CannotStart(Exception):
    """The service cannot start before a person mends something; the text is a sentence that says what."""


class ArkeError(Exception):
    """The request could not be carried out."""

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None, *, field: str | None = None, retry_after_s: int | None = None):
        self.message = message or (self.__doc__ or "").strip()
        self.field = field
        self.retry_after_s = retry_after_s
        super().__init__(self.message)


class InvalidInput(ArkeError):
    """The request is not valid."""

    code, status = "invalid_input", 400


class EmptyBatch(InvalidInput):
    """The batch has no file. Name at least one."""

    code = "empty_batch"


class TooManyFiles(InvalidInput):
    """There are too many files. Choose fewer."""

    code = "too_many_files"


class Unauthorized(ArkeError):
    """A valid key is needed: send `Authorization: Bearer KEY`."""

    code, status = "unauthorized", 401


class Forbidden(ArkeError):
    """The signature or key does not allow this."""

    code, status = "forbidden", 403


class NotFound(ArkeError):
    """Nothing is known under this id."""

    code, status = "not_found", 404


class Conflict(ArkeError):
    """The state of the batch does not allow this."""

    code, status = "conflict", 409


class BatchExists(Conflict):
    """A batch with this id exists with other contents. Choose another batch_id, or send the same body again."""

    code = "batch_exists"


class Retired(ArkeError):
    """This machine is retired: exit."""

    code, status = "retired", 410


class Expired(ArkeError):
    """This has expired, and its files are gone. Start it again."""

    code, status = "expired", 410


class TooLarge(ArkeError):
    """The body is over the limit. Put the list into a manifest object and name that."""

    code, status = "too_large", 413


class Unavailable(ArkeError):
    """The service is busy or restarting. Send the same request again."""

    code, status = "unavailable", 503


class ProviderAway(ArkeError):
    """The provider of machines does not answer."""

    code, status = "provider_unavailable", 502


class Fenced(ArkeError):
    """Another activation has taken over this job; nothing was written and nothing may be done."""

    code = "fenced"


BY_CODE = {
    kind.code: kind
    for kind in (
        InvalidInput, EmptyBatch, TooManyFiles, Unauthorized, Forbidden, NotFound, Conflict, BatchExists, Retired,
        Expired, TooLarge, ProviderAway, Unavailable, Fenced,
    )
}  # fmt: skip
