"""Asks every agent behind the Service for its page, as a scraper would. Exit 0 if all is well.

Run by `helm test`, in the agent's own image, with nothing but the standard library.
"""

from __future__ import annotations

import base64
import os
import re
import socket
import ssl
import sys
import time
from http.client import HTTPConnection, HTTPException, HTTPSConnection

HOST, PORT = os.environ["AGENT_HOST"], int(os.environ["AGENT_PORT"])
SERVER_NAME = os.environ.get("AGENT_SERVER_NAME") or HOST
TLS = os.environ.get("AGENT_SCHEME") == "https"
REQUIRE_GPU = os.environ.get("REQUIRE_GPU") == "true"
SECONDS = float(os.environ.get("TIMEOUT_SECONDS", "60"))

UP = re.compile(r'^roofline_source_up\{[^}]*source="nvml"[^}]*\} 1(\.0)?$', re.MULTILINE)
GPUS = re.compile(r"^roofline_gpu_up\{.*\} 1(\.0)?$", re.MULTILINE)


class NamedConnection(HTTPSConnection):
    """To one address, which must show the certificate of the Service."""

    def connect(self) -> None:
        """Say the Service's name instead of the address."""
        plain = socket.create_connection((self.host, self.port), self.timeout)
        self.sock = context().wrap_socket(plain, server_hostname=SERVER_NAME)


def context() -> ssl.SSLContext:
    """What the scraper knows: an authority, perhaps a certificate of its own."""
    made = ssl.create_default_context(cafile=os.environ.get("CA_FILE") or None)
    if os.environ.get("INSECURE_SKIP_VERIFY") == "true":
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    if os.environ.get("CERT_FILE"):
        made.load_cert_chain(os.environ["CERT_FILE"], os.environ["KEY_FILE"])
    return made


def page(address: str) -> str:
    """The page of metrics of the agent at that address."""
    connection = (NamedConnection if TLS else HTTPConnection)(address, PORT, timeout=10)
    headers = {"Host": f"{HOST}:{PORT}", "Accept": "text/plain"}
    if "SCRAPE_USER" in os.environ:
        both = f"{os.environ['SCRAPE_USER']}:{os.environ['SCRAPE_PASSWORD']}"
        headers["Authorization"] = "Basic " + base64.b64encode(both.encode()).decode()
    try:
        connection.request("GET", "/metrics", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise HTTPException(f"HTTP {answer.status}")
        return answer.read().decode()
    finally:
        connection.close()


def problem(address: str) -> str:
    """What is wrong with the agent there; "" if nothing."""
    try:
        text = page(address)
    except (OSError, HTTPException) as error:
        return f"cannot be scraped: {error}"
    if "roofline_build_info" not in text:
        return "answers, but is no roofline-agent"
    if REQUIRE_GPU and not UP.search(text):
        return "cannot read NVML; is the driver mounted? Look at runtimeClassName and gpuAccess.mode"
    gpus = len(GPUS.findall(text))
    if REQUIRE_GPU and not gpus:
        return "reads NVML and sees no GPU; look at gpuAccess.mode"
    sys.stdout.write(f"{address}: ok, {gpus} GPUs\n")
    return ""


def attempt() -> list[str]:
    """What is wrong now."""
    try:
        found = socket.getaddrinfo(HOST, PORT, type=socket.SOCK_STREAM)
    except OSError as error:
        return [f"{HOST}: {error}; is any agent ready? kubectl get daemonset"]
    addresses = sorted({str(one[4][0]) for one in found})
    return [f"{address}: {said}" for address in addresses if (said := problem(address))]


def main() -> int:
    """Try until all is well, or the time is up."""
    end = time.monotonic() + SECONDS
    while True:
        problems = attempt()
        if not problems:
            return 0
        if time.monotonic() > end:
            sys.stderr.write("\n".join(problems) + "\n")
            return 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
