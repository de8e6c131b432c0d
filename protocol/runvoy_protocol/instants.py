"""Times in JSON documents."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

import msgspec

Instant = Annotated[datetime, msgspec.Meta(tz=True)]
"""RFC 3339 with a zone. One without is refused where it is read, for it cannot be compared with the others."""
