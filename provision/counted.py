"""Numbers of things in a sentence."""


def counted(number: int, thing: str) -> str:
    """A number of things in words: `1 row`, `1,200 rows`."""
    return f"{number:,} {thing}{'s' * (number != 1)}"
