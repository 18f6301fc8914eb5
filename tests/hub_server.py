"""A server that speaks what huggingface_hub asks of the hub to write and read a repository, over real HTTP."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

LARGE = (".safetensors", ".gguf")  # files that go to LFS's storage, as on the hub


@dataclass
class Hub:
    """The state of the server.

    Attributes:
        url: its address.
        tokens: the user of each token, and the organisations that the user writes for.
        readers: tokens that may read only.
        private: of each repository, whether it is.
        files: of each repository, the contents of its files.
        stored: contents by their SHA-256.
        commits: number of commits.
        corrupt: a name whose contents are lost on the way.
        requests: method and path of each request.
    """

    url: str = ""
    tokens: dict[str, tuple[str, list[str]]] = field(default_factory=lambda: {"hf_anna": ("anna", ["team"])})
    readers: set[str] = field(default_factory=set)
    private: dict[str, bool] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    commits: int = 0
    corrupt: str = ""
    requests: list[str] = field(default_factory=list)

    def add(self, hub_id: str, *, private: bool, **files: bytes) -> None:
        self.private[hub_id] = private
        self.files[hub_id] = {".gitattributes": b"x", **{name.replace("__", "."): data for name, data in files.items()}}

    def commit(self, hub_id: str, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                self.files[hub_id][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.files[hub_id][value["path"]] = self.stored[value["oid"]]
            elif line["key"] == "deletedFile":
                del self.files[hub_id][value["path"]]
        if self.corrupt in self.files[hub_id]:
            self.files[hub_id][self.corrupt] = b""
        self.commits += 1


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Run the server in a thread, and stop it at the end."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def answer(self, status: int, value: Any = None, raw: bytes = b"", **headers: str) -> None:
            body = json.dumps(value).encode() if value is not None else raw
            self.send_response(status)
            for name, text in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), text)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            if self.command == "PUT":  # LFS's storage, whose addresses are signed and need no token
                hub.stored[path.rpartition("/")[2]] = body
                return self.answer(200)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            if token not in hub.tokens:
                return self.answer(401, {"error": "Invalid username or password."})
            name, organisations = hub.tokens[token]
            if path == "/api/whoami-v2":
                return self.answer(200, {"name": name, "orgs": [{"name": each} for each in organisations]})
            if path == "/api/validate-yaml":
                found = re.match(r"---\n.*?\n---\n", json.loads(body)["content"], re.DOTALL)
                return self.answer(200 if found else 400, {"errors": [] if found else [{"message": "no metadata"}]})
            if self.command == "POST" and token in hub.readers:
                return self.answer(403, {"error": "no right"})
            if path == "/api/repos/create":
                asked = json.loads(body)
                hub_id = f"{asked['organization'] or name}/{asked['name']}"
                hub.add(hub_id, private=asked.get("visibility") == "private" or asked.get("private") is True)
                return self.answer(200, {"url": f"{hub.url}/{hub_id}"})
            found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+?)(?:\.git)?(/.*)?", path)
            hub_id, rest = (found[1], found[2] or "") if found else ("", "")
            if hub_id not in hub.files:
                return self.answer(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
            files = hub.files[hub_id]
            if rest in ("", "/revision/main"):
                about = {"id": hub_id, "private": hub.private[hub_id], "sha": "1" * 40, "tags": []}
                return self.answer(200, {**about, "siblings": [{"rfilename": each} for each in files]})
            if rest.startswith("/resolve/") and (name := rest.split("/", 3)[3]) in files:
                etag = f'"{hashlib.sha256(files[name]).hexdigest()}"'
                return self.answer(200, raw=files[name], X_Repo_Commit="1" * 40, ETag=etag)
            if rest.startswith(("/resolve/", "/tree/main/")):  # no repository here has folders
                return self.answer(404, {"error": "no such file"}, X_Error_Code="EntryNotFound")
            if rest.startswith("/tree/"):
                items = [{"type": "file", "path": each, "size": len(data), "oid": "0"} for each, data in files.items()]
                return self.answer(200, items)
            if rest.startswith("/preupload/"):
                asked = json.loads(body)["files"]
                modes = [
                    {
                        "path": each["path"],
                        "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                        "shouldIgnore": False,
                    }
                    for each in asked
                ]
                return self.answer(200, {"files": modes})
            if rest == "/info/lfs/objects/batch":
                objects = [
                    {**each, "actions": {"upload": {"href": f"{hub.url}/storage/{each['oid']}"}}}
                    for each in json.loads(body)["objects"]
                ]
                return self.answer(200, {"transfer": "basic", "objects": objects})
            if rest.startswith("/commit/"):
                hub.commit(hub_id, [json.loads(line) for line in body.splitlines()])
                return self.answer(200, {"commitUrl": f"{hub.url}/{hub_id}/commit/1", "commitOid": "1"})
            return self.answer(500, {"error": f"not known here: {path}"})

        do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
