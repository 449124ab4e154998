"""The container's health check: `python3 -m deploy.health live|ready` ends with 0 if the service says so.

It asks this machine at SEGDEPTH_PORT (8000), past any proxy of the environment.
"""

from __future__ import annotations

import http.client
import os
import sys


def main() -> None:
    """Ask `/health/live` or `/health/ready`."""
    if sys.argv[1:] not in (["live"], ["ready"]):
        sys.exit("usage: python3 -m deploy.health live|ready")
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("SEGDEPTH_PORT", "8000")), timeout=4)
    try:
        connection.request("GET", f"/health/{sys.argv[1]}")
        response = connection.getresponse()
        # Docker keeps what is printed, `docker inspect` shows it.
        print(response.status, response.read().decode())
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no answer: {error}")
    sys.exit(response.status != 200)


if __name__ == "__main__":
    main()
