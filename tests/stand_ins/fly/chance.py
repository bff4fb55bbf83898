"""All randomness of the stand-in. The same seed and subject give the same draw, in whatever order things happen."""

import math
from dataclasses import dataclass
from hashlib import blake2b
from statistics import NormalDist
from typing import Final, Literal

STANDARD: Final = NormalDist()


@dataclass(frozen=True)
class Duration:
    """Seconds, drawn anew for each subject. Written `3`, `2..4` (uniform), `exp:2` (mean), `log:2,0.5` (median, sigma
    of a lognormal distribution)."""

    kind: Literal["always", "uniform", "exp", "log"]
    first: float
    second: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Raises ValueError, with what can be written instead."""
        try:
            duration = cls._parse(text)
        except ValueError:
            raise ValueError(f"{text!r} is no duration: 3, 2..4, exp:2 or log:2,0.5 (seconds)") from None
        if not (math.isfinite(duration.first) and math.isfinite(duration.second)):
            raise ValueError(f"{text!r} is not finite")
        if min(duration.first, duration.second) < 0 or (duration.kind == "log" and duration.first == 0):
            raise ValueError(f"{text!r} is less than it may be")
        return duration

    @classmethod
    def _parse(cls, text: str) -> "Duration":
        if ".." in text:
            low, high = text.split("..")
            return cls("uniform", float(low), float(high))
        if text.startswith("exp:"):
            return cls("exp", float(text[4:]))
        if text.startswith("log:"):
            median, sigma = text[4:].split(",")
            return cls("log", float(median), float(sigma))
        return cls("always", float(text))

    def at(self, fraction: float) -> float:
        """The seconds that so large a part of all draws does not exceed; `fraction` from 0 to below 1."""
        match self.kind:
            case "always":
                return self.first
            case "uniform":
                return self.first + (self.second - self.first) * fraction
            case "exp":
                return -self.first * math.log1p(-fraction)
            case "log":
                return self.first * math.exp(self.second * STANDARD.inv_cdf(min(max(fraction, 1e-12), 1 - 1e-12)))


@dataclass(frozen=True)
class Chance:
    """Draws by subject: who or what it is about, and how often that was asked before."""

    seed: int

    def fraction(self, *subject: object) -> float:
        """From 0 to below 1."""
        digest = blake2b(repr((self.seed, *subject)).encode(), digest_size=8).digest()
        return (int.from_bytes(digest) >> 11) / 2**53

    def happens(self, rate: float, *subject: object) -> bool:
        """True for this part of all subjects."""
        return rate > 0 and self.fraction(*subject) < rate

    def seconds(self, duration: Duration, *subject: object) -> float:
        """One draw of a duration."""
        return duration.at(self.fraction(*subject))

    def letters(self, count: int, *subject: object) -> str:
        """Hexadecimal digits, for ids; at most 32."""
        return blake2b(repr((self.seed, *subject)).encode(), digest_size=16).hexdigest()[:count]
