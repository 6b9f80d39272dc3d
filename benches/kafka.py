"""Apache Kafka itself on free ports of loopback, with the settings that the tests use."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from measure import ROOT

# A fixed cluster id, in Kafka's spelling of a UUID.
CLUSTER = "dXB0YWtlLWJlbmNoLTAwMQ"


def free_ports(count: int) -> list[int]:
    # All are held until all are found, so that no two are the same.
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def running():
    """Yields `bootstrap.servers` of a broker that ends with the block."""
    classes = os.environ["UPTAKE_KAFKA_LIBS"] + "/*"
    with tempfile.TemporaryDirectory(prefix="uptake-bench-kafka-") as name:
        folder, (broker, controller) = Path(name), free_ports(2)
        properties = folder / "server.properties"
        text = (ROOT / "infra/kafka/server.properties").read_text()
        for key, value in (("BROKER_PORT", broker), ("CONTROLLER_PORT", controller), ("DATA", folder / "data")):
            text = text.replace(f"@{key}@", str(value))
        properties.write_text(text)
        subprocess.run(
            ["java", "-cp", classes, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", properties],
            check=True, stdout=subprocess.DEVNULL,
        )
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(["java", "-Xmx512m", "-XX:+UseSerialGC", "-cp", classes, "kafka.Kafka", properties], stdout=log, stderr=log)
        try:
            until_it_listens(server, broker, folder / "log")
            yield f"127.0.0.1:{broker}"
        finally:
            server.kill()
            server.wait()


def until_it_listens(server: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        if server.poll() is not None:
            sys.exit(f"Kafka ended:\n{log.read_text()[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.1)
    sys.exit("Kafka does not listen after five minutes")
