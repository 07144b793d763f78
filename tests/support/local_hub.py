"""A small Hub on 127.0.0.1 for the unmodified client; supports pushing, loading and their failures.

Not supported: Xet, multi-part uploads (each large file is one PUT), pull requests, pages of long listings.
All data is in memory. `python tests/support/local_hub.py [PORT]` starts one by hand.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import secrets
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE_FILE_BYTES = 10 * 1024**2
LARGE_FILE_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".h5", ".zip"}
CHUNK_BYTES = 1024**2
LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "openrail", "other"}


@dataclass(frozen=True)
class StoredFile:
    """One version of a file; `lfs` means that it is in the large-file store."""

    content: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def blob_id(self) -> str:
        """The git blob id; for a large file, that of its pointer."""
        blob = f"version 1\noid sha256:{self.sha256}\n".encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(blob) + blob).hexdigest()

    @property
    def etag(self) -> str:
        """The id that the client compares with that of its own file."""
        return self.sha256 if self.lfs else self.blob_id

    def entry(self, path: str) -> dict[str, Any]:
        """The entry of the file in a listing."""
        lfs = {"lfs": {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}} if self.lfs else {}
        return {"type": "file", "path": path, "oid": self.blob_id, "size": len(self.content), **lfs}


@dataclass
class Commit:
    """A commit with all its files, by path."""

    oid: str
    summary: str
    files: dict[str, StoredFile]


@dataclass
class Repository:
    """A repository. The id of a dataset starts with `datasets/`; others are models."""

    id: str
    private: bool
    gated: bool = False
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, summary: str, files: dict[str, StoredFile]) -> Commit:
        """Adds a commit with these files to a branch."""
        self.commits.append(Commit(secrets.token_hex(20), summary, files))
        self.branches[branch] = self.commits[-1].oid
        return self.commits[-1]

    def find(self, revision: str) -> Commit:
        """The commit of a branch name or commit id."""
        oid = self.branches.get(revision, revision)
        for commit in self.commits:
            if commit.oid == oid:
                return commit
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass(frozen=True)
class LoggedRequest:
    """A request that the server received; records whether it had a token, but not the token."""

    method: str
    path: str
    host: str
    has_token: bool
    range: str | None
    status: int


@dataclass
class Fault:
    """A planned failure: `hook` runs before the answer, `status` replaces it, `drop_after` cuts the body (bytes)."""

    method: str
    pattern: str
    times: int = 1
    hook: Callable[[], None] | None = None
    status: int | None = None
    drop_after: int | None = None


class HubError(Exception):
    """An error answer; `code` goes into X-Error-Code."""

    def __init__(self, status: int, message: str, code: str | None = None, **payload: Any):
        super().__init__(message)
        self.status, self.message, self.code, self.payload = status, message, code, payload


class _DroppedError(Exception):
    """The connection was cut on purpose."""


class LocalHub:
    """The server and its state; use as a context manager."""

    def __init__(self, port: int = 0):
        self.repositories: dict[str, Repository] = {}
        self.requests: list[LoggedRequest] = []
        self.objects: dict[str, bytes] = {}  # large files by sha256
        self.signatures: set[tuple[str, str, str]] = set()  # (method, sha256, signature) of issued links
        self.lock = threading.Lock()
        self._tokens: dict[str, tuple[str, str]] = {}  # token -> (user, role)
        self._faults: list[Fault] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler_of(self))
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "LocalHub":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._server.shutdown()  # may be called twice
        self._server.server_close()

    def add_user(self, name: str, role: str = "write") -> str:
        """Returns a new token of this user with the role `read` or `write`."""
        token = f"hf_{secrets.token_hex(17)}"
        self._tokens[token] = (name, role)
        return token

    def add_repository(self, repo_id: str, private: bool = False) -> None:
        """Adds a repository; as on the Hub, it starts with a commit by the server."""
        repository = self.repositories[repo_id] = Repository(repo_id, private)
        attributes = StoredFile(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n", lfs=False)
        repository.commit("main", "initial commit", {".gitattributes": attributes})

    def fail(self, method: str, pattern: str, **fault: Any) -> None:
        """Plans a failure of the next requests whose path matches the pattern; `fault` are fields of `Fault`."""
        self._faults.append(Fault(method, pattern, **fault))

    def take_fault(self, method: str, path: str) -> Fault | None:
        """Returns the planned fault of this request or None; counts it as used."""
        with self.lock:
            for fault in self._faults:
                if fault.times and fault.method == method and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def seen(self, method: str, pattern: str) -> list[LoggedRequest]:
        """The requests received so far, in order, whose path matches the pattern."""
        with self.lock:
            return [entry for entry in self.requests if entry.method == method and re.search(pattern, entry.path)]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """The files of a revision by path, without the one that the server added."""
        files = self.repositories[repo_id].find(revision).files
        return {path: stored.content for path, stored in files.items() if path != ".gitattributes"}

    def user_of(self, authorization: str | None) -> tuple[str | None, str]:
        """(name, role) of the token in a header; (None, '') without a token."""
        if authorization is None:
            return None, ""
        with contextlib.suppress(KeyError):
            return self._tokens[authorization.removeprefix("Bearer ")]
        raise HubError(401, "Invalid credentials in Authorization header")

    def signed_link(self, method: str, sha256: str) -> str:
        """A link to the large-file store, which the client sees as another host that accepts no token."""
        signature = secrets.token_hex(8)
        self.signatures.add((method, sha256, signature))
        return f"http://localhost:{self.port}/storage/{sha256}?signature={signature}"

    def client_environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """The environment of a process whose Hub client uses this server; the client reads it at import."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
        return {
            **kept,
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            **({} if token is None else {"HF_TOKEN": token}),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_UPDATE_DOWNLOAD_COUNTS": "0",
            "DISABLE_SAFETENSORS_CONVERSION": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


def _handler_of(hub: LocalHub) -> type[BaseHTTPRequestHandler]:
    return type("Handler", (_Handler,), {"hub": hub})


class _Handler(BaseHTTPRequestHandler):
    """Handles one connection. `ROUTES` lists a method for each route, which returns the JSON of a 200 answer."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Writes nothing to stderr; requests are logged in `hub.requests`."""

    def _dispatch(self) -> None:
        self.status, self.drop_after, self.body = 0, None, b""
        try:
            self._meet_fault()
            self.body = self._read_body()
            self._answer()
        except HubError as error:
            self._reply_error(error)
        except (_DroppedError, ConnectionError):
            self.close_connection = True
        finally:
            self._log()

    do_GET = do_HEAD = do_POST = do_PUT = _dispatch  # noqa: N815  # names of the standard library

    def _meet_fault(self) -> None:
        fault = self.hub.take_fault(self.command, self.path)
        if fault is None:
            return
        if fault.hook is not None:
            fault.hook()
        self.drop_after = fault.drop_after
        if fault.status is not None:
            self.body = self._read_body()
            raise HubError(fault.status, "planned failure")

    def _answer(self) -> None:
        path = urlsplit(self.path).path.replace("/api/datasets/", "/api/models/datasets/")
        for method, pattern, route in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split("|"):
                answer = route(self, **{name: unquote(value) for name, value in match.groupdict(default="").items()})
                if not self.status:
                    self._reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})
                return
        raise HubError(404, f"this small Hub has no {self.command} {path}", "NoSuchRoute")

    def _log(self) -> None:
        entry = LoggedRequest(
            method=self.command,
            path=unquote(self.path),
            host=self.headers.get("Host", ""),
            has_token="Authorization" in self.headers,
            range=self.headers.get("Range"),
            status=self.status,
        )
        with self.hub.lock:
            self.hub.requests.append(entry)

    # ---- bytes in and out ----

    def _read_body(self) -> bytes:
        chunks, total = [], 0
        for chunk in self._body_chunks():
            chunks.append(chunk)
            total += len(chunk)
            if self.drop_after is not None and total >= self.drop_after and self.command in ("PUT", "POST"):
                self.connection.shutdown(socket.SHUT_RDWR)
                raise _DroppedError
        return b"".join(chunks)

    def _body_chunks(self) -> Iterator[bytes]:
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return
        left = int(self.headers.get("Content-Length", 0))
        while left and (chunk := self.rfile.read(min(left, CHUNK_BYTES))):
            left -= len(chunk)
            yield chunk
        if left:
            raise _DroppedError  # the client closed the connection

    def _reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.drop_after is not None:
            self.wfile.write(body[: self.drop_after])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            raise _DroppedError
        self.wfile.write(body)

    def _reply_error(self, error: HubError) -> None:
        headers = {"Content-Type": "application/json", "X-Error-Message": error.message}
        if error.code is not None:
            headers["X-Error-Code"] = error.code
        with contextlib.suppress(ConnectionError):
            self._reply(error.status, json.dumps({"error": error.message, **error.payload}).encode(), headers)

    def _reply_file(self, content: bytes, headers: dict[str, str]) -> None:
        """Sends the whole file, or the part that a Range header asks for."""
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self._reply(200, content, headers)
        start, end = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
        if start >= len(content):
            raise HubError(416, f"the file has {len(content)} bytes")
        headers = {**headers, "Content-Range": f"bytes {start}-{end}/{len(content)}"}
        return self._reply(206, content[start : end + 1], headers)

    # ---- permissions ----

    def _user(self) -> tuple[str | None, str]:
        return self.hub.user_of(self.headers.get("Authorization"))

    def _readable(self, repo_id: str) -> Repository:
        """Returns a repository that the user may read; answers as if a private one of others were missing."""
        user, _ = self._user()
        repository = self.hub.repositories.get(repo_id)
        if repository is None or (repository.private and user != _owner(repo_id)):
            raise HubError(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repository

    def _writable(self, repo_id: str) -> Repository:
        repository = self._readable(repo_id)
        self._check_namespace(_owner(repo_id))
        return repository

    def _check_namespace(self, namespace: str) -> str:
        user, role = self._user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if user != namespace or role != "write":
            raise HubError(403, f"You don't have the rights to write under the namespace {namespace!r}")
        return user

    # ---- write path ----

    def _whoami(self) -> dict[str, Any]:
        user, role = self._user()
        if user is None:
            raise HubError(401, "Invalid username or password.")
        token = {"displayName": "local", "role": role}
        return {"type": "user", "name": user, "orgs": [], "auth": {"type": "access_token", "accessToken": token}}

    def _create_repository(self) -> dict[str, Any]:
        request = json.loads(self.body)
        repo_id = f"{self._check_namespace(request.get('organization') or self._user()[0])}/{request['name']}"
        repo_id = f"datasets/{repo_id}" if request.get("type") == "dataset" else repo_id
        url = f"{self.hub.url}/{repo_id}"
        private = request.get("visibility") == "private" or bool(request.get("private"))
        with self.hub.lock:
            if repo_id in self.hub.repositories:
                raise HubError(409, "You already created this repo", url=url)
            self.hub.add_repository(repo_id, private)
        return {"url": url}

    def _create_branch(self, repo: str, revision: str) -> dict[str, Any]:
        repository = self._writable(repo)
        start = repository.find(json.loads(self.body or b"{}").get("startingPoint", "main"))
        with self.hub.lock:
            if revision in repository.branches:
                raise HubError(409, f"Reference already exists: {revision}")
            repository.branches[revision] = start.oid
        return {}

    def _validate_yaml(self) -> dict[str, Any]:
        errors = metadata_errors(json.loads(self.body)["content"])
        if errors:
            raise HubError(400, "Invalid metadata", errors=[{"message": error} for error in errors], warnings=[])
        return {"errors": [], "warnings": []}

    def _preupload(self, repo: str, revision: str) -> dict[str, Any]:
        present = self._writable(repo).find(revision).files
        files = []
        for wanted in json.loads(self.body)["files"]:
            path, size = wanted["path"], wanted["size"]
            large = size > LARGE_FILE_BYTES or Path(path).suffix in LARGE_FILE_SUFFIXES
            oid = {"oid": present[path].etag} if path in present else {}
            files.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, **oid})
        return {"files": files}

    def _lfs_batch(self, repo: str) -> dict[str, Any]:
        self._writable(repo)
        objects = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.objects:
                verify = {"href": f"{self.hub.url}/{repo}.git/info/lfs/verify"}
                upload = {"href": self.hub.signed_link("PUT", wanted["oid"])}
                answer["actions"] = {"upload": upload, "verify": verify}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def _lfs_verify(self, repo: str) -> dict[str, Any]:
        self._writable(repo)
        wanted = json.loads(self.body)
        if len(self.hub.objects.get(wanted["oid"], b"")) != wanted["size"]:
            raise HubError(422, f"object {wanted['oid']} is not stored with {wanted['size']} bytes")
        return {}

    def _commit(self, repo: str, revision: str) -> dict[str, Any]:
        repository = self._writable(repo)
        header, *operations = [json.loads(line) for line in self.body.splitlines()]
        with self.hub.lock:
            head = repository.find(revision)
            if header["value"].get("parentCommit") not in (None, head.oid):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            for operation in operations:
                self._apply(files, operation["key"], operation["value"])
            commit = repository.commit(revision, header["value"]["summary"], files)
        return {"success": True, "commitOid": commit.oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{commit.oid}"}

    def _apply(self, files: dict[str, StoredFile], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            files[path] = StoredFile(base64.b64decode(value["content"]), lfs=False)
        elif key == "lfsFile":
            if value["oid"] not in self.hub.objects:
                raise HubError(400, f"Your push was rejected: {path} points to object {value['oid']}, never uploaded")
            files[path] = StoredFile(self.hub.objects[value["oid"]], lfs=True)
        elif key == "deletedFile" and path in files:
            del files[path]
        else:
            raise HubError(400, f"operation {key} of {path} is not possible")

    # ---- read path ----

    def _info(self, repo: str, revision: str) -> dict[str, Any]:
        repository = self._readable(repo)
        commit = repository.find(revision or "main")
        siblings = [{"rfilename": path} for path in commit.files]
        return {
            "id": repo.removeprefix("datasets/"),
            "sha": commit.oid,
            "private": repository.private,
            "tags": [],
            "siblings": siblings,
        }

    def _tree(self, repo: str, revision: str, path: str) -> list[dict[str, Any]]:
        """Lists the files below a folder, always recursively and without folders."""
        files = self._readable(repo).find(revision).files
        listed = [stored.entry(name) for name, stored in files.items() if name.startswith(f"{path}/" if path else "")]
        if path and not listed:
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound")
        return listed

    def _paths_info(self, repo: str, revision: str) -> list[dict[str, Any]]:
        files = self._readable(repo).find(revision).files
        paths = parse_qs(self.body.decode())["paths"]
        return [files[path].entry(path) for path in paths if path in files]

    def _resolve(self, repo: str, revision: str, path: str) -> None:
        repository = self._readable(repo)
        if repository.gated and self._user()[0] != _owner(repo):
            raise HubError(403, f"Access to {repo} is restricted", "GatedRepo")
        commit = repository.find(revision)
        headers = {"X-Repo-Commit": commit.oid, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            not_found = {**headers, "X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self._reply(404, b"Entry not found", not_found)
        stored = commit.files[path]
        if not stored.lfs:
            return self._reply_file(stored.content, {**headers, "ETag": f'"{stored.etag}"'})
        linked = {"X-Linked-Etag": f'"{stored.etag}"', "X-Linked-Size": str(len(stored.content))}
        return self._reply(302, b"", {**headers, **linked, "Location": self.hub.signed_link("GET", stored.sha256)})

    def _storage(self, sha256: str) -> Any:
        """The large-file store: accepts only signed links, and refuses the user's token."""
        if "Authorization" in self.headers:
            raise HubError(400, "Only one auth mechanism allowed")
        signature = parse_qs(urlsplit(self.path).query).get("signature", [""])[0]
        if (self.command, sha256, signature) not in self.hub.signatures:
            raise HubError(403, "SignatureDoesNotMatch")
        if self.command == "GET":
            return self._reply_file(self.hub.objects[sha256], {"ETag": f'"{sha256}"', "Accept-Ranges": "bytes"})
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise HubError(400, "XAmzContentSHA256Mismatch: the bytes received are not those announced")
        self.hub.objects[sha256] = self.body
        return {}


def _owner(repo_id: str) -> str:
    return repo_id.split("/")[-2]


_REPO = r"(?P<repo>(?:datasets/)?[\w.-]+/[\w.-]+)"
_REVISION = r"(?P<revision>[^/]+)"

ROUTES: list[tuple[str, str, Callable[..., Any]]] = [
    ("GET", r"/api/whoami-v2", _Handler._whoami),
    ("POST", r"/api/repos/create", _Handler._create_repository),
    ("POST", r"/api/validate-yaml", _Handler._validate_yaml),
    ("POST", rf"/api/models/{_REPO}/branch/{_REVISION}", _Handler._create_branch),
    ("POST", rf"/api/models/{_REPO}/preupload/{_REVISION}", _Handler._preupload),
    ("POST", rf"/{_REPO}\.git/info/lfs/objects/batch", _Handler._lfs_batch),
    ("POST", rf"/{_REPO}\.git/info/lfs/verify", _Handler._lfs_verify),
    ("POST", rf"/api/models/{_REPO}/commit/{_REVISION}", _Handler._commit),
    ("GET", rf"/api/models/{_REPO}(?:/revision/{_REVISION})?", _Handler._info),
    ("GET", rf"/api/models/{_REPO}/tree/{_REVISION}(?:/(?P<path>.+))?", _Handler._tree),
    ("POST", rf"/api/models/{_REPO}/paths-info/{_REVISION}", _Handler._paths_info),
    ("GET|HEAD", rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)", _Handler._resolve),
    ("GET|PUT", r"/storage/(?P<sha256>[0-9a-f]{64})", _Handler._storage),
]


def metadata_errors(card: str) -> list[str]:
    """Errors in the metadata of a model card, by the Hub's documented rules for the fields used here."""
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    if match is None:
        return ["there is no metadata block"]
    try:
        metadata = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"metadata is not valid YAML: {error}"]
    if not isinstance(metadata, dict):
        return ["metadata is not a mapping"]
    errors = [] if metadata.get("license") in (None, *LICENSES) else [f'"license" must be one of {sorted(LICENSES)}']
    for name in ("datasets", "base_model"):
        ids = metadata.get(name, [])
        for repo_id in [ids] if isinstance(ids, str) else ids:
            if not re.fullmatch(r"([\w.-]+/)?[\w.-]+", repo_id):
                errors.append(f'"{name}" must hold Hub ids, not {repo_id!r}')
    if not all(isinstance(tag, str) for tag in metadata.get("tags", [])):
        errors.append('"tags" must be strings')
    return errors + [error for model in metadata.get("model-index", []) for error in _model_index_errors(model)]


def _model_index_errors(model: dict[str, Any]) -> Iterator[str]:
    if not model.get("name"):
        yield '"model-index[0].name" is required'
    for result in model.get("results", []):
        for section, keys in (("task", ("type",)), ("dataset", ("type", "name"))):
            for key in keys:
                if not isinstance(result.get(section, {}).get(key), str):
                    yield f'"model-index[0].results[].{section}.{key}" is required'
        for metric in result.get("metrics", [{}]):
            if not isinstance(metric.get("type"), str) or "value" not in metric:
                yield '"model-index[0].results[].metrics[]" needs type and value'


if __name__ == "__main__":
    with LocalHub(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as served:
        sys.stdout.write(f"export HF_ENDPOINT={served.url} HF_TOKEN={served.add_user('user')} HF_HUB_DISABLE_XET=1\n")
        sys.stdout.flush()
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()
