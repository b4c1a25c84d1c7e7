"""The ledger: takes in the records of all processes as they come, writes them down and knows how far the run is."""

from __future__ import annotations

from collections import Counter
from typing import IO

from provision.load.outcomes import OUTCOMES, Outcome
from provision.load.results import SIZE, Journal, read_back
from provision.load.tally import Tally


class Ledger:
    """One journal; `tally` is kept up to date only when somebody judges while the run goes on."""

    def __init__(self, journal: IO[bytes], *, live: bool = False) -> None:
        self._journal = journal
        self._words: Counter[int] = Counter()
        self.refused: OSError | None = None
        self.tally = Tally() if live else None

    def add(self, records: bytes) -> None:
        """Write down whole records; a disk that refuses them stands in `refused`, since no call-back may raise."""
        try:
            self._journal.write(records)
        except OSError as error:
            self.refused = error
        with memoryview(records).cast("q") as longs:
            self._words.update(longs[0 :: SIZE // 8])
        if self.tally is not None and records:
            self.tally.add(records)

    def counts(self) -> Counter[tuple[Outcome, int]]:
        """How often each outcome came with each status."""
        found: Counter[tuple[Outcome, int]] = Counter()
        for word, times in self._words.items():
            found[OUTCOMES[word >> 16 & 0xFF], word >> 32 & 0xFFFF] += times
        return found

    def outcomes(self) -> dict[str, int]:
        """How often each outcome came."""
        found: Counter[str] = Counter()
        for (outcome, _), times in self.counts().items():
            found[outcome] += times
        return dict(found)

    def parts(self) -> Counter[int]:
        """How many requests each part had, by its number."""
        found: Counter[int] = Counter()
        for word, times in self._words.items():
            found[word & 0xFFFF] += times
        return found

    def close(self) -> Journal:
        """All that was written; OSError when the disk refused some of it."""
        if self.refused:
            raise self.refused
        return read_back(self._journal)
