"""What the API answers when it refuses."""


class Refusal(Exception):
    """A request is answered with this status and message. Nothing was changed."""

    def __init__(
        self, status: int, message: str, *, retry_after_s: int | None = None, fault: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s
        self.fault = fault
        """The name of the fault switch that made it, if one did."""


def machine_not_found() -> Refusal:
    """No such machine in this app, or no longer."""
    return Refusal(404, "not_found: machine not found")
