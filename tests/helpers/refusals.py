"""What bad input gets: an error, by its message."""

from collections.abc import Callable
from typing import Any

import pytest


def refused(
    message: str, call: Callable[..., object], /, *args: Any, error: type[Exception] = ValueError, **options: Any
) -> None:
    """The call with its arguments raises the error, and the pattern is found in what it says."""
    with pytest.raises(error, match=message):
        call(*args, **options)
