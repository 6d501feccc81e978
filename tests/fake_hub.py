"""A small Hub on the loopback interface, for the real huggingface_hub client to talk to.

It keeps repositories in memory: commits of files, large files by their SHA-256. It can be told to fail:
`FakeHub.fail` answers chosen requests with a status, or cuts the connection in the middle.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

import uvicorn
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

CUT = 0
"""In place of a status: the connection ends in the middle of the answer."""
WRITE_TOKEN, READ_TOKEN = "hf_write", "hf_read"
_LARGE = (".safetensors", ".onnx", ".png")


@dataclass
class Commit:
    """One commit: files by path, large ones as their SHA-256."""

    sha: str
    message: str
    files: dict[str, bytes]
    large: dict[str, str]


@dataclass
class Repo:
    """One repository with its commits, oldest first."""

    private: bool
    commits: list[Commit] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    sdk: str | None = None

    def at(self, revision: str) -> Commit | None:
        if revision == "main":
            return self.commits[-1]
        return next((commit for commit in self.commits if commit.sha == revision), None)

    def add(self, message: str, files: dict[str, bytes], large: dict[str, str]) -> Commit:
        sha = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()  # noqa: S324
        self.commits.append(Commit(sha, message, files, large))
        return self.commits[-1]


@dataclass
class _Failure:
    pattern: re.Pattern[str]
    status: int
    times: int
    after: int


class FakeHub:
    """The server: its state, its log of requests, and the failures it was told to play.

    Attributes:
        url: what HF_ENDPOINT must be.
        repos: by ``models/owner/name`` or ``spaces/owner/name``.
        requests: each request as ``METHOD /path``, in order.
    """

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self._failures: list[_Failure] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(self._app(), log_level="critical", lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> FakeHub:
        self._thread.start()
        while not self._server.started:
            time.sleep(0.005)
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5)

    def fail(self, pattern: str, status: int, times: int = 1000, after: int = 0) -> None:
        """Answer requests whose ``METHOD /path`` matches with a status, or `CUT`; the first `after` pass."""
        self._failures.append(_Failure(re.compile(pattern), status, times, after))

    def heal(self) -> None:
        """Play no failures any more, and forget the requests so far."""
        self._failures.clear()
        self.requests.clear()

    def count(self, pattern: str) -> int:
        """Return how many requests match."""
        return sum(re.search(pattern, request) is not None for request in self.requests)

    def content(self, key: str, path: str) -> bytes:
        """Return a file of a repository's last commit."""
        commit = self.repos[key].commits[-1]
        return self.objects[commit.large[path]] if path in commit.large else commit.files[path]

    def _app(self) -> Starlette:
        def route(path: str, endpoint: Callable[..., Awaitable[Response]], *methods: str) -> Route:
            return Route(path, self._guarded(endpoint), methods=list(methods))

        api, model = "/api/{kind}/{owner}/{name}", "/{owner}/{name}"
        routes = [
            route("/api/whoami-v2", self._whoami, "GET"),
            route("/api/validate-yaml", self._validate_yaml, "POST"),
            route("/api/repos/create", self._create, "POST"),
            route(f"{api}/auth-check/write", self._auth_check, "GET"),
            route(f"{api}/preupload/{{revision}}", self._preupload, "POST"),
            route(f"{api}/commit/{{revision}}", self._commit, "POST"),
            route(f"{api}/tree/{{revision}}", self._tree, "GET"),
            route(f"{api}/tree/{{revision}}/{{path:path}}", self._tree, "GET"),
            route(f"{api}/paths-info/{{revision}}", self._paths_info, "POST"),
            route(f"{api}/variables", self._variables, "POST"),
            route(f"{api}/revision/{{revision}}", self._info, "GET"),
            route(api, self._info, "GET"),
            route("/objects/{oid}", self._put_object, "PUT"),
            route("/objects/{oid}", self._get_object, "GET", "HEAD"),
            route("/verify", self._verify, "POST"),
        ]
        for prefix in ("", "/{kind}"):
            routes.append(route(f"{prefix}{model}.git/info/lfs/objects/batch", self._batch, "POST"))
            routes.append(route(f"{prefix}{model}/resolve/{{revision}}/{{path:path}}", self._resolve, "GET", "HEAD"))
        return Starlette(routes=routes)

    def _guarded(self, endpoint: Callable[..., Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Log the request and play the failures before the endpoint has its say."""

        async def guarded(request: Request) -> Response:
            line = f"{request.method} {request.url.path}"
            self.requests.append(line)
            await request.body()
            for failure in self._failures:
                if failure.pattern.search(line) and failure.times > 0:
                    if failure.after > 0:
                        failure.after -= 1
                        continue
                    failure.times -= 1
                    return _cut(b"{") if failure.status == CUT else _error(failure.status, "as told")
            return await endpoint(request)

        return guarded

    # Who asks --------------------------------------------------------------------------------------------

    def _user(self, request: Request) -> str | None:
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        return {WRITE_TOKEN: "writer", READ_TOKEN: "reader"}.get(token)

    def _find(self, request: Request, write: bool = False) -> Repo | Response:
        user = self._user(request)
        if "authorization" in request.headers and user is None:
            return _error(401, "Invalid username or password.")
        repo = self.repos.get(_key(request))
        if repo is None or (repo.private and user != request.path_params["owner"]):
            return _error(404, "Repository not found", "RepoNotFound")
        if write and user != request.path_params["owner"]:
            return _error(403, "you don't have the rights to write here")
        return repo

    async def _whoami(self, request: Request) -> Response:
        user = self._user(request)
        if user is None:
            return _error(401, "Invalid username or password.")
        token = {"displayName": "test", "role": "write" if user == "writer" else "read"}
        return JSONResponse({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": token}})

    async def _auth_check(self, request: Request) -> Response:
        found = self._find(request, write=True)
        return found if isinstance(found, Response) else JSONResponse({})

    # Repositories ----------------------------------------------------------------------------------------

    async def _create(self, request: Request) -> Response:
        body, user = await request.json(), self._user(request)
        if user is None:
            return _error(401, "Invalid username or password.")
        owner, kind = body.get("organization") or user, f"{body.get('type', 'model')}s"
        if user != "writer" or owner != user:
            return _error(403, f"You don't have the rights to create a {body.get('type', 'model')} under {owner}")
        key = f"{kind}/{owner}/{body['name']}"
        url = f"{self.url}/{'' if kind == 'models' else kind + '/'}{owner}/{body['name']}"
        if key in self.repos:
            return JSONResponse({"error": "You already created this repo", "url": url}, 409)
        repo = self.repos[key] = Repo(body.get("visibility") == "private", sdk=body.get("sdk"))
        repo.add("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"}, {})
        return JSONResponse({"url": url})

    async def _info(self, request: Request) -> Response:
        found = self._find(request)
        if isinstance(found, Response):
            return found
        commit = found.at(request.path_params.get("revision", "main"))
        if commit is None:
            return _error(404, "Revision not found", "RevisionNotFound")
        siblings = [{"rfilename": path} for path in sorted(commit.files.keys() | commit.large.keys())]
        name = "{owner}/{name}".format(**request.path_params)
        return JSONResponse(
            {"id": name, "sha": commit.sha, "private": found.private, "siblings": siblings, "sdk": found.sdk}
        )

    async def _tree(self, request: Request) -> Response:
        """What lies in a folder, with ``recursive`` also below it."""
        found = self._find(request)
        commit = found if isinstance(found, Response) else found.at(request.path_params["revision"])
        if commit is None or isinstance(commit, Response):
            return commit or _error(404, "Revision not found", "RevisionNotFound")
        folder = request.path_params.get("path", "").strip("/")
        below = [entry for entry in self._entries(commit) if entry["path"].startswith(f"{folder}/" if folder else "")]
        if folder and not below:
            return _error(404, f"{folder} does not exist", "EntryNotFound")
        if request.query_params.get("recursive", "").lower() != "true":
            depth = folder.count("/") + 1 if folder else 0
            below = [entry for entry in below if entry["path"].count("/") == depth]
        return JSONResponse(below)

    async def _paths_info(self, request: Request) -> Response:
        found = self._find(request)
        commit = found if isinstance(found, Response) else found.at(request.path_params["revision"])
        if commit is None or isinstance(commit, Response):
            return commit or _error(404, "Revision not found", "RevisionNotFound")
        wanted = set((await request.form()).getlist("paths"))
        return JSONResponse([entry for entry in self._entries(commit) if entry["path"] in wanted])

    def _entries(self, commit: Commit) -> list[dict[str, Any]]:
        """All files and folders of a commit, as the Hub's tree lists them."""
        entries: list[dict[str, Any]] = [
            {"type": "file", "path": path, "size": len(content), "oid": _git_hash(content)}
            for path, content in commit.files.items()
        ]
        for path, oid in commit.large.items():
            size = len(self.objects[oid])
            large = {"oid": oid, "size": size, "pointerSize": 134}
            entries.append({"type": "file", "path": path, "size": size, "oid": oid[:40], "lfs": large})
        folders = {str(parent) for entry in entries for parent in PurePosixPath(entry["path"]).parents} - {"."}
        entries += [{"type": "directory", "path": path, "size": 0, "oid": _git_hash(path.encode())} for path in folders]
        return sorted(entries, key=lambda entry: str(entry["path"]))

    async def _variables(self, request: Request) -> Response:
        found = self._find(request, write=True)
        if isinstance(found, Response):
            return found
        body = await request.json()
        found.variables[body["key"]] = body["value"]
        return JSONResponse({key: {"key": key, "value": value} for key, value in found.variables.items()})

    # Uploads ---------------------------------------------------------------------------------------------

    async def _validate_yaml(self, request: Request) -> Response:
        content = (await request.json())["content"]
        front = re.match(r"---\n(.*?)\n---\n", content, re.DOTALL)
        try:
            metadata = yaml.safe_load(front.group(1)) if front else {}
        except yaml.YAMLError as error:
            return JSONResponse({"errors": [{"message": str(error)}]}, 400)
        if not isinstance(metadata, dict):
            return JSONResponse({"errors": [{"message": "metadata is not a mapping"}]}, 400)
        return JSONResponse({"errors": [], "warnings": []})

    async def _preupload(self, request: Request) -> Response:
        found = self._find(request, write=True)
        if isinstance(found, Response):
            return found
        commit = found.commits[-1]
        answers = []
        for file in (await request.json())["files"]:
            path = file["path"]
            large = path.endswith(_LARGE) or file["size"] > 10_000_000
            known = commit.large.get(path) if large else None
            if path in commit.files:
                known = _git_hash(commit.files[path])
            mode = "lfs" if large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": known})
        return JSONResponse({"files": answers})

    async def _batch(self, request: Request) -> Response:
        found = self._find(request, write=True)
        if isinstance(found, Response):
            return found
        objects: list[dict[str, Any]] = []
        for wanted in (await request.json())["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.objects:
                upload = {"href": f"{self.url}/objects/{wanted['oid']}", "header": {}}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{self.url}/verify", "header": {}}}
            objects.append(answer)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _put_object(self, request: Request) -> Response:
        content, oid = await request.body(), request.path_params["oid"]
        if hashlib.sha256(content).hexdigest() != oid:
            return _error(400, "the content has another hash")
        self.objects[oid] = content
        return Response()

    async def _verify(self, request: Request) -> Response:
        body = await request.json()
        there = len(self.objects.get(body["oid"], b"")) == body["size"]
        return JSONResponse({}) if there else _error(404, "no such object")

    async def _commit(self, request: Request) -> Response:
        found = self._find(request, write=True)
        if isinstance(found, Response):
            return found
        last = found.commits[-1]
        files, large, message = dict(last.files), dict(last.large), ""
        for line in (await request.body()).splitlines():
            key, value = (json.loads(line)[name] for name in ("key", "value"))
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if value["oid"] not in self.objects:
                    return _error(400, f"the object of {value['path']} was never uploaded")
                large[value["path"]] = value["oid"]
            elif key == "deletedFile":
                (files if value["path"] in files else large).pop(value["path"])
        commit = found.add(message, files, large)
        url = f"{self.url}/{_key(request).removeprefix('models/')}/commit/{commit.sha}"
        return JSONResponse({"success": True, "commitOid": commit.sha, "commitUrl": url})

    # Downloads -------------------------------------------------------------------------------------------

    async def _resolve(self, request: Request) -> Response:
        found = self._find(request)
        commit = found if isinstance(found, Response) else found.at(request.path_params["revision"])
        if commit is None or isinstance(commit, Response):
            return commit or _error(404, "Revision not found", "RevisionNotFound")
        path, headers = request.path_params["path"], {"X-Repo-Commit": commit.sha}
        if path in commit.large:
            oid = commit.large[path]
            headers |= {"X-Linked-Etag": f'"{oid}"', "X-Linked-Size": str(len(self.objects[oid]))}
            # Another host, as the real Hub's storage is: a client must not send its token there.
            elsewhere = self.url.replace("127.0.0.1", "localhost")
            return RedirectResponse(f"{elsewhere}/objects/{oid}", 302, headers)
        if path not in commit.files:
            response = _error(404, "Entry not found", "EntryNotFound")
            response.headers.update(headers)
            return response
        headers["ETag"] = f'"{_git_hash(commit.files[path])}"'
        return self._serve(request, commit.files[path], headers)

    async def _get_object(self, request: Request) -> Response:
        oid = request.path_params["oid"]
        if "authorization" in request.headers:
            return _error(400, "a token was sent to the storage host")
        return self._serve(request, self.objects[oid], {"ETag": f'"{oid}"'})

    def _serve(self, request: Request, content: bytes, headers: dict[str, str]) -> Response:
        """The content, or the part that the Range header asks for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
        status = 200
        if wanted is not None:
            start, end = int(wanted[1]), int(wanted[2] or len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self.ranges.append(wanted[0])
            content, status = content[start : end + 1], 206
        headers |= {"Accept-Ranges": "bytes"}
        line = f"HALF {request.method} {request.url.path}"
        for failure in self._failures:
            if failure.pattern.search(line) and failure.times > 0 and request.method == "GET":
                failure.times -= 1
                return _cut(content, headers)
        return Response(content, status, headers, media_type="application/octet-stream")


def _key(request: Request) -> str:
    return "{}/{owner}/{name}".format(request.path_params.get("kind", "models"), **request.path_params)


def _error(status: int, message: str, code: str = "") -> Response:
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return JSONResponse({"error": message}, status, headers)


def _cut(content: bytes, headers: dict[str, str] | None = None) -> Response:
    """Promise all of the content, send a part of it, and close the connection."""

    async def part() -> AsyncIterator[bytes]:
        yield content[: len(content) // 2]
        raise ConnectionAbortedError("as told")

    return StreamingResponse(part(), headers={"Content-Length": str(len(content) + 1), **(headers or {})})


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324  (as git does)
