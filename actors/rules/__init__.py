"""The rules of a batch: pure functions over plain rows. No I/O, clock, randomness, asyncio or logging."""
