"""A bounded load from a process of its own: asks for predictions on lasting connections, counts what was answered.

    python load.py <port> <requests> <connections> <file with the body> <version>

Each connection asks until it has been answered so often by that version of the model, for two minutes at most.

Prints JSON: how many requests were answered with which status and by which version of the model, in which order the
versions came on each connection, what failed, and how long an answer took.
"""

import http.client
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path

MAX_SECONDS = 120


def main(port: int, requests: int, connections: int, body: bytes, version: str) -> None:
    """Load the server, then print what came of it."""
    until = time.monotonic() + MAX_SECONDS
    statuses: Counter[str] = Counter()
    versions: list[list[str]] = [[] for _ in range(connections)]
    failures: list[str] = []
    taken: list[float] = []

    def ask(index: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        answered = 0
        while answered < requests and time.monotonic() < until:
            begun = time.perf_counter()
            try:
                connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                content = response.read()
            except (OSError, http.client.HTTPException) as error:
                failures.append(repr(error))
                connection.close()
                continue
            taken.append(time.perf_counter() - begun)
            statuses[str(response.status)] += 1
            if response.status == 200:
                said = json.loads(content)["model_version"]
                answered += said == version
                if not versions[index] or versions[index][-1] != said:
                    versions[index].append(said)

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken.sort()
    found = {"statuses": statuses, "versions": versions, "failures": failures, "p50_seconds": taken[len(taken) // 2]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]).read_bytes(), sys.argv[5])
