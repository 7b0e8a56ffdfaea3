"""The language server that many editors use for YAML, spoken to over its pipes."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.support.private_server import ServerUnavailable, Throwaway, find_program

SECONDS = 120  # for an answer, on a busy machine


class YamlLanguageServer(Throwaway):
    """One process, which checks one document after the other."""

    def __init__(self) -> None:
        installed = str(Path(sys.prefix, "node_modules", ".bin"))  # by make test, if there is npm
        program = find_program("yaml-language-server", "npm", [installed])
        super().__init__("yaml-language-server")
        self._process = subprocess.Popen(
            [program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()
        # It ends if this process does not exist any more.
        if not self._answer("initialize", processId=os.getpid(), rootUri=None, capabilities={}):
            raise ServerUnavailable(f"{program} does not answer; does it need a newer node?")
        self._send("initialized", {})
        # It asks nobody for schemas: the document names its own.
        self._send("workspace/didChangeConfiguration", {"settings": {"yaml": {"schemaStore": {"enable": False}}}})

    def stop(self) -> None:
        with self._process:  # closes the pipes, too
            self._process.kill()
            self._listener.join()

    def problems(self, path: Path) -> list[str]:
        """Return what an editor underlines in a file, without the messages' further lines."""
        self._open(path)
        message = self._next(lambda message: message.get("params", {}).get("uri") == path.as_uri())
        return [str(problem["message"]).partition("\n")[0] for problem in message["params"]["diagnostics"]]

    def completions(self, path: Path, line: int, character: int) -> list[str]:
        """Return what an editor offers at a place of a file."""
        self._open(path)
        place = {"line": line, "character": character}
        answer = self._answer("textDocument/completion", textDocument={"uri": path.as_uri()}, position=place)
        return [item["label"] for item in answer["result"]["items"]]

    def _open(self, path: Path) -> None:
        document = {"uri": path.as_uri(), "languageId": "yaml", "version": 1, "text": path.read_text(encoding="utf-8")}
        self._send("textDocument/didOpen", {"textDocument": document})

    def _answer(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._send(method, parameters, id=method)
        return self._next(lambda message: message.get("id") == method)

    def _next(self, wanted: Any) -> dict[str, Any]:
        """Return the next message that is wanted, or nothing if the server has ended."""
        while (message := self._answers.get(timeout=SECONDS)) is not None:
            if wanted(message):
                return message
        return {}

    def _send(self, method: str, parameters: dict[str, Any], **more: Any) -> None:
        content = json.dumps({"jsonrpc": "2.0", "method": method, "params": parameters, **more}).encode()
        assert self._process.stdin is not None
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
        self._process.stdin.flush()

    def _listen(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        while header := stream.readline():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                while stream.readline().strip():  # further headers, up to an empty line
                    pass
                self._answers.put(json.loads(stream.read(int(value))))
        self._answers.put(None)
