"""Real servers for the tests, on loopback and free ports: PostgreSQL, MLflow, and Chromium driven over WebDriver."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHROMIUM = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
"""Headless, and silent towards the network: the UI under test is on loopback."""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def postgres_programs() -> Path | None:
    """The folder of PostgreSQL's server programs, the newest version there is; None without any."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    debian = Path("/usr/lib/postgresql").glob("*/bin/initdb")
    return max((path.parent for path in debian), key=lambda path: int(path.parent.name), default=None)


def until(condition: Callable[[], Any], what: str, seconds: float = 120.0) -> Any:
    """The first true answer of `condition`; what it raises as OSError counts as no."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if answer := condition():
                return answer
        except OSError:
            pass
        time.sleep(0.1)
    raise TimeoutError(what)


def end(process: subprocess.Popen[Any] | None, number: signal.Signals = signal.SIGKILL) -> None:
    """Ends a process that leads a group of its own, and its group."""
    if process and process.poll() is None:
        os.killpg(process.pid, number)
        process.wait(60)


class Postgres:
    """A PostgreSQL server with a database `mlflow`, asked for a password. It refuses to run as root."""

    user, password = "mlflow", "p%ss:w0rd/@here"
    """The password has every character that a URI must escape."""

    def __init__(self) -> None:
        programs = postgres_programs()
        assert programs, "PostgreSQL is not installed"
        self.programs, self.port = programs, free_port()
        self.home = Path(tempfile.mkdtemp(prefix="concertrl-postgres-"))  # a path that another user may enter
        self.process: subprocess.Popen[Any] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": "postgres", "group": "postgres", "extra_groups": []}
            shutil.chown(self.home, "postgres", "postgres")
        secret = self.home / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        options = ["-D", str(self.home / "data"), "-U", self.user, "--auth=scram-sha-256", f"--pwfile={secret}"]
        self._run("initdb", *options, "--no-sync", "--encoding=UTF8", "--locale=C")

    @property
    def uri(self) -> str:
        secret = urllib.parse.quote(self.password, safe="")
        return f"postgresql+psycopg://{self.user}:{secret}@127.0.0.1:{self.port}/mlflow"

    def start(self) -> None:
        options = ["-D", str(self.home / "data"), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.home)]
        log = (self.home / "log").open("ab")
        command = [str(self.programs / "postgres"), *options]
        self.process = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, cwd=self.home, **self._as
        )
        log.close()
        until(lambda: self._run("psql", "-c", "select 1", "postgres", check=False) == 0, "PostgreSQL did not start")
        if self._run("psql", "-c", "select 1", "mlflow", check=False):
            self._run("createdb", "mlflow")

    def kill(self) -> None:
        """As a crash of the machine would: nothing is written down first, the log brings all back."""
        end(self.process)
        self.process = None

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self.home)

    def dump(self) -> bytes:
        """Everything that is in the database, as text."""
        command = [str(self.programs / "pg_dump"), *self._address(), "mlflow"]
        return subprocess.run(command, env=self._environment(), capture_output=True, check=True).stdout

    def _run(self, program: str, *options: str, check: bool = True) -> int:
        client = [] if program == "initdb" else self._address()
        command = [str(self.programs / program), *client, *options]
        ran = subprocess.run(
            command, env=self._environment(), cwd=self.home, capture_output=True, check=False, **self._as
        )
        assert not check or ran.returncode == 0, ran.stderr.decode()
        return ran.returncode

    def _address(self) -> list[str]:
        return ["-h", "127.0.0.1", "-p", str(self.port), "-U", self.user]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PGPASSWORD": self.password}


class MlflowServer:
    """A real MLflow server that can be killed and started again on the same port, database and artifact store."""

    def __init__(self, home: Path, store: str | None = None) -> None:
        self.home, self.port = home, free_port()
        self.store = store or f"sqlite:///{home / 'server.db'}"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        with (self.home / "server.out").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *options, "--artifacts-destination", f"{self.home}/store"],
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.home,
                env={
                    **os.environ,
                    "MLFLOW_BACKEND_STORE_URI": self.store,  # not on the command line, where anybody reads it
                    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
                    "MLFLOW_DISABLE_TELEMETRY": "true",
                },
            )
        until(self._healthy, "the MLflow server did not start")

    def signal(self, number: signal.Signals) -> None:
        assert self.process
        os.killpg(self.process.pid, number)

    def kill(self) -> None:
        end(self.process)
        self.process = None

    def _healthy(self) -> bool:
        with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return answer.status == 200


class Chromium:
    """A headless browser, driven over WebDriver (https://www.w3.org/TR/webdriver2/)."""

    def __init__(self, width: int = 1500, height: int = 950) -> None:
        self.port = free_port()
        self.profile = tempfile.mkdtemp(prefix="concertrl-chromium-")
        self.process = subprocess.Popen(
            [str(shutil.which("chromedriver")), f"--port={self.port}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            until(lambda: self._call("GET", "/status")["ready"], "chromedriver did not start", 30)
            options = [*CHROMIUM, f"--user-data-dir={self.profile}", f"--window-size={width},{height}"]
            wanted = {"goog:chromeOptions": {"args": options}}
            self._session = (
                "/session/" + self._call("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})["sessionId"]
            )
        except BaseException:
            self.close()
            raise

    def open(self, address: str) -> None:
        self._call("POST", f"{self._session}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script in the page returns."""
        return self._call("POST", f"{self._session}/execute/sync", {"script": script, "args": list(arguments)})

    def sees(self, *texts: str, seconds: float = 60.0) -> str:
        """The visible text of the page, once all of `texts` are in it."""
        page = ""

        def there() -> bool:
            nonlocal page
            page = self.run("return document.body ? document.body.innerText : ''")
            return all(text in page for text in texts)

        try:
            until(there, "", seconds)
        except TimeoutError:
            raise AssertionError(f"not all of {texts} in the page:\n{page[:3000]}") from None
        return page

    def click(self, selector: str) -> None:
        """Clicks the first visible element that matches."""
        element = self._find(selector)
        self._call("POST", f"{self._session}/element/{next(iter(element.values()))}/click", {})

    def type(self, selector: str, text: str) -> None:
        """Types into the first visible element that matches."""
        element = self._find(selector)
        self._call("POST", f"{self._session}/element/{next(iter(element.values()))}/value", {"text": text})

    def enter(self, selector: str | None) -> None:
        """What follows is said of the frame that matches; None: of the page again."""
        self._call("POST", f"{self._session}/frame", {"id": selector and self._find(selector)})

    def picture(self, path: Path) -> bytes:
        """Saves what is seen as a PNG."""
        image = base64.b64decode(self._call("GET", f"{self._session}/screenshot"))
        path.write_bytes(image)
        return image

    def close(self) -> None:
        end(self.process)
        shutil.rmtree(self.profile, ignore_errors=True)

    def _find(self, selector: str) -> dict[str, str]:
        find = "return [...document.querySelectorAll(arguments[0])].find(one => one.getClientRects().length) || null"
        return until(lambda: self.run(find, selector), f"not in the page: {selector}", 30)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            told = json.load(error)["value"]
            raise AssertionError(f"{told['error']}: {told['message'].splitlines()[0]}") from None
