"""An S3 server that answers late and counts requests.

    python -m tests.hosts.object_store ADDRESS PORT SECONDS

Every request waits SECONDS before it is served. GET /_counted returns the number of requests by method as JSON.
"""

import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from werkzeug.serving import run_simple

COUNTED = "/_counted"


class Late:
    """A WSGI application that serves each request of another one after a pause, and counts them."""

    def __init__(self, served: Callable, seconds: float) -> None:
        self.served, self.seconds = served, seconds
        self.counted, self.lock = Counter(), threading.Lock()

    def __call__(self, environment: dict, start_response: Callable) -> Iterable[bytes]:
        if environment["PATH_INFO"] == COUNTED:
            start_response("200 OK", [("Content-Type", "application/json")])
            return [json.dumps(self.counted).encode()]
        with self.lock:
            self.counted[environment["REQUEST_METHOD"]] += 1
        time.sleep(self.seconds)
        return self.served(environment, start_response)


if __name__ == "__main__":
    address, port, seconds = sys.argv[1:]
    served = Late(DomainDispatcherApplication(create_backend_app), float(seconds))
    run_simple(address, int(port), served, threaded=True, request_handler=MotoRequestHandler)
