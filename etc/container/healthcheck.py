"""Ends with exit code 0 if the proxy of this container is alive, 1 if it is not. Asks /livez: a container is restarted
for what a restart can mend. ``HEALTH_PORT`` and ``HEALTH_PATH`` ask elsewhere.
"""

import http.client
import os
import sys


def main() -> int:
    """The exit code."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("HEALTH_PORT", "8080")), timeout=4)
    try:
        connection.request("GET", os.environ.get("HEALTH_PATH", "/livez"))
        response = connection.getresponse()
        print(response.read(2000).decode("utf-8", "replace").strip())
        return 0 if response.status == 200 else 1
    except OSError as error:
        print(f"no answer: {error}")
        return 1
    finally:
        connection.close()


if __name__ == "__main__":
    sys.exit(main())
