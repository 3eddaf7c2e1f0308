"""Send a bounded load of prediction requests on persistent connections, and count the responses.

    python load.py <port> <responses> <connections> <file with the body> <version>

Each connection sends requests until that version of the model has given it so many responses, for two minutes at most.

Prints JSON: the number of responses by status, the order of the model versions on each connection, the connection
errors, and the median time to a response.
"""

import http.client
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

MAX_SECONDS = 120


def main(port: int, responses: int, connections: int, body: bytes, version: str) -> None:
    """Load the server and print the results."""
    deadline = time.monotonic() + MAX_SECONDS
    statuses: Counter[str] = Counter()
    versions: list[list[str]] = [[] for _ in range(connections)]
    failures: list[str] = []
    latencies: list[float] = []

    def send_requests(index: int) -> None:
        """Send requests on one connection, which is reopened after a failure."""
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        of_version = 0
        while of_version < responses and time.monotonic() < deadline:
            started_at = time.perf_counter()
            try:
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
                continue
            latencies.append(time.perf_counter() - started_at)
            statuses[str(response.status)] += 1
            if response.status == 200:
                response_version = json.loads(content)["model_version"]
                of_version += response_version == version
                if not versions[index] or versions[index][-1] != response_version:
                    versions[index].append(response_version)

    threads = [threading.Thread(target=send_requests, args=(index,)) for index in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50_seconds = sorted(latencies)[len(latencies) // 2]
    results = {"statuses": statuses, "versions": versions, "failures": failures, "p50_seconds": p50_seconds}
    print(json.dumps(results))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]).read_bytes(), sys.argv[5])
