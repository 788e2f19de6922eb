"""Has a Ray that is started on this machine ask for a random token. Imports no Ray."""

from __future__ import annotations

import os
import secrets
import sys


def require(address: str | None) -> None:
    """Set a token for the cluster to be started here, as other users of the machine reach it.

    Nothing is set where a cluster is joined, or one's own token is set already. Ray reads these
    variables when it is imported, and the processes it starts inherit them.

    Parameters
    ----------
    address : of the cluster to join; None starts one
    """
    if not address and "RAY_ADDRESS" not in os.environ and "ray" not in sys.modules:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
