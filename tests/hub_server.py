"""A stand-in of the Hub's HTTP API for models, on the loopback address, for the real client to talk to.

It answers what `huggingface_hub` and transformers ask in order to push, card, list and load a model, with the Hub's
own status codes and `X-Error-Code`s, and it refuses what the Hub refuses: invalid card metadata, an unknown token, a
write by a stranger. Model files go through LFS's basic transfer and come back through a redirect to a signed address
on another port, as from the Hub's storage. Not offered: Xet, multipart uploads, pull requests, datasets, Spaces; an
address that is not in `ROUTES` gets 501 and its own name back, so that a new client version fails loudly.

The file is longer than most here because its four parts are one idea, the API, read top to bottom: what a repository
is, what a valid card is, one function per address, and the server around them.
"""

import base64
import hashlib
import hmac
import json
import re
import secrets
import threading
import traceback
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".gguf", ".h5", ".msgpack", ".npz", ".npy", ".model")
LFS_FROM_BYTES = 10 * 1024 * 1024


class Refused(Exception):
    """The Hub's refusal: an HTTP status, what `X-Error-Code` says (or None), a message, and further headers."""

    def __init__(self, status: int, code: str | None, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        codes = {"X-Error-Code": code} if code else {}
        self.reply = Reply({"error": message}, status, {**codes, "X-Error-Message": message, **(headers or {})})


@dataclass(frozen=True)
class Request:
    """What a route may read. `user` is the token's owner, None for a request without a token."""

    method: str
    path: str
    query: dict[str, list[str]]
    body: bytes
    range: str | None
    user: str | None

    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """A status, headers, and a body that is sent as it is when bytes and as JSON otherwise."""

    body: object = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------------------------------- repositories


def git_oid(content: bytes) -> str:
    """The name git gives to a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass(frozen=True)
class File:
    """A file of a commit: where its bytes are (`sha256`), and whether git holds them or a pointer to LFS."""

    sha256: str
    size: int
    lfs: bool
    blob_oid: str

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob_oid


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    message: str
    author: str
    date: str
    parents: tuple[str, ...]
    files: dict[str, File]


@dataclass
class Repository:
    """The commits of one model, all of them reachable, and the branches that name some of them."""

    id: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def at(self, revision: str) -> Commit:
        """The commit a branch, a hash, or at least seven characters of a hash stand for."""
        oid = self.branches.get(revision, revision)
        found = [self.commits[name] for name in self.commits if len(oid) >= 7 and name.startswith(oid)]
        if len(found) != 1:
            raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return found[0]

    def history(self, revision: str) -> list[Commit]:
        """The commit of `revision` and those before it, newest first."""
        commits = [self.at(revision)]
        while commits[-1].parents:
            commits.append(self.commits[commits[-1].parents[0]])
        return commits

    def add(self, branch: str, author: str, title: str, message: str, files: dict[str, File]) -> Commit:
        """Put a commit holding exactly `files` at the tip of `branch`."""
        parents = (self.branches[branch],) if branch in self.branches else ()
        date = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        content = repr((parents, sorted(files.items()), author, title, message, date, len(self.commits)))
        commit = Commit(hashlib.sha1(content.encode()).hexdigest(), title, message, author, date, parents, files)
        self.commits[commit.oid] = commit
        self.branches[branch] = commit.oid
        return commit


def file_json(path: str, file: File) -> dict:
    pointer = {"oid": file.sha256, "size": file.size, "pointerSize": len(lfs_pointer(file.sha256, file.size))}
    listed = {"type": "file", "path": path, "size": file.size, "oid": file.blob_oid}
    return {**listed, "lfs": pointer} if file.lfs else listed


def lfs_pointer(sha256: str, size: int) -> bytes:
    """What git stores in place of a file held by LFS."""
    return f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n".encode()


# ---------------------------------------------------------------------------------------------- model cards

REPO_ID = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?"
CARD_FIELDS = {
    "base_model": REPO_ID,
    "base_model_relation": "adapter|finetune|merge|quantized",
    "datasets": REPO_ID,
    "library_name": r"[\w.-]+",
    "license": r"[a-z0-9][a-z0-9.+-]*",
    "pipeline_tag": "[a-z0-9-]+",
    "tags": r"\S.*",
}


def as_list(value) -> list:
    return value if isinstance(value, list) else [value]


def read_card(text: str) -> tuple[dict, list[str]]:
    """The metadata of a README.md and what the Hub would refuse in it: every value of a known field has its form."""
    block = re.match(r"---[ \t]*\r?\n(.*?)^---[ \t]*$", text, re.DOTALL | re.MULTILINE)
    try:
        metadata = (yaml.safe_load(block[1]) if block else None) or {}
    except yaml.YAMLError as error:
        return {}, [f"invalid YAML: {error}"]
    if not isinstance(metadata, dict):
        return {}, ["metadata must be a mapping"]
    problems = [
        f'"{name}" with value {value!r} is not valid'
        for name, form in CARD_FIELDS.items()
        if metadata.get(name) is not None
        for value in as_list(metadata[name])
        if not (isinstance(value, str) and re.fullmatch(form, value))
    ]
    if not isinstance(metadata.get("tags", []), list):
        problems.append('"tags" must be an array')
    return metadata, problems


def hub_tags(metadata: dict, config: dict, paths: list[str]) -> list[str]:
    """The tags the Hub shows for a model: those of the card, and those it derives from card, config and files."""
    tags = as_list(metadata.get("library_name") or []) + as_list(config.get("model_type") or [])
    tags += ["safetensors"] if any(path.endswith(".safetensors") for path in paths) else []
    tags += metadata.get("tags") or []
    for name in ("base_model", "license", "datasets"):
        tags += [f"{name.removesuffix('s')}:{value}" for value in as_list(metadata.get(name) or [])]
    if relation := metadata.get("base_model_relation"):
        tags += [f"base_model:{relation}:{value}" for value in as_list(metadata.get("base_model") or [])]
    return list(dict.fromkeys(tags))


# ---------------------------------------------------------------------------------------------- addresses


def whoami(hub, request):
    if request.user is None:
        raise Refused(401, None, "Invalid username or password.")
    return {"type": "user", "id": request.user, "name": request.user, "fullname": request.user, "orgs": []}


def validate_yaml(hub, request):
    metadata, problems = read_card(request.json()["content"])
    warnings = [] if metadata else [{"message": "empty or missing yaml metadata in repo card"}]
    return Reply({"errors": [{"message": p} for p in problems], "warnings": warnings}, 400 if problems else 200)


def create_repo(hub, request):
    asked = request.json()
    if asked.get("type", "model") != "model":
        raise Refused(501, None, "this stand-in holds models only")
    owner = asked.get("organization") or whoami(hub, request)["name"]
    if request.user != owner:
        status = 401 if request.user is None else 403
        raise Refused(status, None, f"You don't have the rights to create a model under the namespace {owner!r}")
    repo = f"{owner}/{asked['name']}"
    created = {"name": repo, "url": f"{hub.endpoint}/{repo}"}
    if repo in hub.repositories:
        # The client reads `url` from this refusal too, when it was told that the repository may exist.
        return Reply({**created, "error": "You already created this model repo"}, 409)
    hub.repositories[repo] = repository = Repository(repo, private=asked.get("visibility") == "private")
    attributes = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
    repository.add("main", owner, "initial commit", "", {".gitattributes": hub.store(attributes.encode())})
    return created


def delete_repo(hub, request):
    asked = request.json()
    repo = f"{asked.get('organization') or request.user}/{asked['name']}"
    del hub.repositories[hub.repository(request, repo, write=True).id]
    return {}


def model_info(hub, request, repo, revision="main"):
    repository = hub.repository(request, repo)
    commit, blobs = repository.at(revision), request.query.get("blobs") == ["true"]
    metadata, _ = read_card(hub.text(commit, "README.md"))
    config = json.loads(hub.text(commit, "config.json") or "{}")
    siblings = []
    for path, file in commit.files.items():
        listed = file_json(path, file)
        lfs = {"lfs": {**listed["lfs"], "sha256": file.sha256}} if file.lfs else {}
        siblings.append({"rfilename": path, **({"size": file.size, "blobId": file.blob_oid, **lfs} if blobs else {})})
    return {
        "_id": git_oid(repo.encode())[:24],
        "id": repo,
        "modelId": repo,
        "author": repo.split("/")[0],
        "sha": commit.oid,
        "createdAt": repository.history(revision)[-1].date,
        "lastModified": commit.date,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": hub_tags(metadata, config, list(commit.files)),
        "cardData": metadata,
        "library_name": metadata.get("library_name"),
        "pipeline_tag": metadata.get("pipeline_tag"),
        "config": {name: config[name] for name in ("architectures", "model_type") if name in config},
        "siblings": siblings,
    }


def tree(hub, request, repo, revision, folder=None):
    commit = hub.repository(request, repo).at(revision)
    prefix = f"{folder.rstrip('/')}/" if folder else ""
    recursive = request.query.get("recursive") == ["true"]
    below = {path: file for path, file in commit.files.items() if path.startswith(prefix)}
    if not below:
        raise Refused(404, "EntryNotFound", f"{folder} does not exist on {revision!r}")
    parents = {str(parent) for path in below for parent in PurePosixPath(path).parents} - {"."}
    folders = [path for path in sorted(parents) if path.startswith(prefix)]
    listed = [{"type": "directory", "path": path, "size": 0, "oid": git_oid(path.encode())} for path in folders]
    listed += [file_json(path, file) for path, file in sorted(below.items())]
    return [entry for entry in listed if recursive or "/" not in entry["path"].removeprefix(prefix)]


def paths_info(hub, request, repo, revision):
    """Unlike every other body this one is a form; unknown paths are left out."""
    files = hub.repository(request, repo).at(revision).files
    paths = parse_qs(request.body.decode()).get("paths", [])
    return [file_json(path, files[path]) for path in paths if path in files]


def refs(hub, request, repo):
    branches = hub.repository(request, repo).branches.items()
    listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": oid} for name, oid in branches]
    return {"branches": listed, "converts": [], "tags": [], "pullRequests": []}


def commits(hub, request, repo, revision):
    return [
        {"id": c.oid, "title": c.title, "message": c.message, "authors": [{"user": c.author}], "date": c.date}
        for c in hub.repository(request, repo).history(revision)
    ]


def create_branch(hub, request, repo, branch):
    repository = hub.repository(request, repo, write=True)
    if branch in repository.branches:
        raise Refused(409, None, f"Reference already exists: refs/heads/{branch}")
    repository.branches[branch] = repository.at(request.json().get("startingPoint", "main")).oid
    return {}


def preupload(hub, request, repo, revision):
    """Says which files go to LFS, and what the repository already holds so that the client can skip it."""
    files = hub.repository(request, repo, write=True).at(revision).files
    answers = []
    for asked in request.json()["files"]:
        path, large = asked["path"], asked["size"] > LFS_FROM_BYTES
        mode = "lfs" if large or path.endswith(LFS_SUFFIXES) else "regular"
        known = {"oid": files[path].etag} if path in files else {}
        answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, **known})
    return {"files": answers}


def lfs_batch(hub, request, repo):
    """Where to put each file's bytes; no `actions` for bytes that are already here."""
    hub.repository(request, repo, write=True)
    objects = []
    for asked in request.json()["objects"]:
        known = {"oid": asked["oid"], "size": asked["size"]}
        verify = {"href": f"{hub.endpoint}/{repo}.git/info/lfs/objects/verify"}
        actions = {"upload": {"href": hub.signed("PUT", asked["oid"])}, "verify": verify}
        objects.append(known if hub.blob(asked["oid"]).exists() else {**known, "actions": actions})
    return {"transfer": "basic", "objects": objects}


def lfs_verify(hub, request, repo):
    hub.repository(request, repo, write=True)
    asked = request.json()
    if not hub.blob(asked["oid"]).exists() or hub.blob(asked["oid"]).stat().st_size != asked["size"]:
        raise Refused(404, None, f"{asked['oid']} was not uploaded")
    return {}


def check_signature(hub, request, method, sha256):
    """Refuses, as S3 does, an address signed for something else, and a signed address with a token beside it."""
    if not hmac.compare_digest(hub.signed(method, sha256), hub.storage + request.path):
        raise Refused(403, None, "SignatureDoesNotMatch")
    if request.user is not None:
        raise Refused(400, None, "Only one auth mechanism allowed; the client sent its token to the storage")


def storage_put(hub, request, sha256):
    check_signature(hub, request, "PUT", sha256)
    if hashlib.sha256(request.body).hexdigest() != sha256:
        raise Refused(400, None, "the bytes are not those that were announced")
    hub.blob(sha256).write_bytes(request.body)
    return b""


def storage_get(hub, request, sha256):
    check_signature(hub, request, "GET", sha256)
    return ranged(hub.blob(sha256).read_bytes(), request.range, {"ETag": f'"{sha256}"'})


def commit(hub, request, repo, revision):
    """Newline-delimited JSON: a header, then one operation a line; all of them or none."""
    repository = hub.repository(request, repo, write=True)
    if "create_pr" in request.query:
        raise Refused(501, None, "this stand-in has no pull requests")
    if revision not in repository.branches:
        raise Refused(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    head = repository.at(revision)
    files, header = dict(head.files), {}
    for operation in map(json.loads, request.body.splitlines()):
        key, value = operation["key"], operation["value"]
        if key == "header":
            header = value
            if not head.oid.startswith(value.get("parentCommit", head.oid)):
                raise Refused(412, None, "A commit has happened since. Please refresh and try again.")
        elif key == "file":
            files[value["path"]] = hub.store(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            files[value["path"]] = hub.linked(value["oid"])
        elif key in ("deletedFile", "deletedFolder"):
            folder = value["path"].rstrip("/") + "/"
            gone = [p for p in files if p == value["path"] or (key == "deletedFolder" and p.startswith(folder))]
            if not gone:
                raise Refused(404, "EntryNotFound", "A file with this name doesn't exist")
            files = {path: file for path, file in files.items() if path not in gone}
        else:
            raise Refused(501, None, f"this stand-in has no {key!r} operation")
    made = repository.add(revision, request.user, header["summary"], header.get("description", ""), files)
    return {"success": True, "commitOid": made.oid, "commitUrl": f"{hub.endpoint}/{repo}/commit/{made.oid}"}


def resolve(hub, request, repo, revision, path):
    found = hub.repository(request, repo).at(revision)
    headers = {"X-Repo-Commit": found.oid}
    file = found.files.get(path)
    if file is None:
        raise Refused(404, "EntryNotFound", "Entry not found", headers)
    headers["ETag"] = f'"{file.etag}"'
    if file.lfs:
        # Another origin than the Hub's: the client follows a redirect within the Hub at once, past these headers.
        linked = {"X-Linked-ETag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        return Reply(b"", 302, {**headers, **linked, "Location": hub.signed("GET", file.sha256)})
    return ranged(hub.blob(file.sha256).read_bytes(), request.range, headers)


def ranged(content: bytes, asked: str | None, headers: dict[str, str]) -> Reply:
    """The whole content, or the one range of bytes asked for: `first-last`, `first-`, or `-count` from the end."""
    headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    bounds = re.fullmatch(r"bytes=(\d*)-(\d*)", asked or "")
    if not bounds:
        return Reply(content, 200, headers)
    first, last = (int(bound) if bound else None for bound in bounds.groups())
    start = max(len(content) - (last or 0), 0) if first is None else first
    stop = len(content) if first is None or last is None else min(last + 1, len(content))
    if start >= stop:
        return Reply(b"", 416, {"Content-Range": f"bytes */{len(content)}"})
    return Reply(content[start:stop], 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})


REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
REVISION = r"(?P<revision>[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", whoami),
    ("POST", "/api/validate-yaml", validate_yaml),
    ("POST", "/api/repos/create", create_repo),
    ("DELETE", "/api/repos/delete", delete_repo),
    ("GET", f"/api/models/{REPO}/tree/{REVISION}(?:/(?P<folder>.+))?", tree),
    ("GET", f"/api/models/{REPO}/refs", refs),
    ("GET", f"/api/models/{REPO}/commits/{REVISION}", commits),
    ("GET", f"/api/models/{REPO}(?:/revision/{REVISION})?", model_info),
    ("POST", f"/api/models/{REPO}/paths-info/{REVISION}", paths_info),
    ("POST", f"/api/models/{REPO}/branch/(?P<branch>[^/]+)", create_branch),
    ("POST", f"/api/models/{REPO}/preupload/{REVISION}", preupload),
    ("POST", f"/api/models/{REPO}/commit/{REVISION}", commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", lfs_batch),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/verify", lfs_verify),
    ("PUT", "/storage/(?P<sha256>[0-9a-f]{64})/[0-9a-f]+", storage_put),
    ("GET", "/storage/(?P<sha256>[0-9a-f]{64})/[0-9a-f]+", storage_get),
    ("GET", f"/{REPO}/resolve/{REVISION}/(?P<path>.+)", resolve),
]


# ---------------------------------------------------------------------------------------------- server


class HubServer:
    """The stand-in, serving between `with` and its end at `endpoint`; bytes lie in `root`, the rest in memory.

    Args:
        root: an empty directory for the files' bytes.
        tokens: token → user name. A user reads and writes what is under their name, and reads what is public.

    `requests` is the log of what was asked: (method, path without its query, status). Leaving the `with` raises
    RuntimeError if a route broke, so that a fault of the stand-in is not taken for a fault of the client.
    """

    def __init__(self, root: Path, tokens: dict[str, str]):
        self.root, self.tokens = Path(root), dict(tokens)
        self.repositories: dict[str, Repository] = {}
        self.requests: list[tuple[str, str, int]] = []
        self.faults: list[str] = []
        self.endpoint = self.storage = ""
        self._secret = secrets.token_bytes(16)
        self._lock = threading.Lock()

    def __enter__(self) -> "HubServer":
        self.root.mkdir(parents=True, exist_ok=True)
        self._servers = [_Server(self), _Server(self)]
        self.endpoint, self.storage = (f"http://127.0.0.1:{server.server_port}" for server in self._servers)
        return self

    def __exit__(self, *_) -> None:
        for server in self._servers:
            server.stop()
        if self.faults:
            raise RuntimeError("the stand-in of the Hub broke:\n" + "\n".join(self.faults))

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        """The paths and bytes of a revision."""
        found = self.repositories[repo].at(revision).files
        return {path: self.blob(file.sha256).read_bytes() for path, file in found.items()}

    def repository(self, request: Request, repo: str, write: bool = False) -> Repository:
        """The repository, if the asker may see it; a stranger cannot tell a private one from a missing one."""
        found, owns = self.repositories.get(repo), request.user == repo.split("/")[0]
        if found is None or (found.private and not owns):
            if request.user is None:
                raise Refused(401, "RepoNotFound", "Invalid username or password.")
            raise Refused(404, "RepoNotFound", "Repository not found")
        if write and not owns:
            raise Refused(401 if request.user is None else 403, None, "you cannot write to this repository")
        return found

    def blob(self, sha256: str) -> Path:
        return self.root / sha256

    def store(self, content: bytes) -> File:
        """Keep the bytes of a file that git itself holds."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.blob(sha256).write_bytes(content)
        return File(sha256, len(content), lfs=False, blob_oid=git_oid(content))

    def linked(self, sha256: str) -> File:
        """A file whose bytes were uploaded to LFS before."""
        if not self.blob(sha256).exists():
            raise Refused(400, None, f"LFS object {sha256} does not exist")
        size = self.blob(sha256).stat().st_size
        return File(sha256, size, lfs=True, blob_oid=git_oid(lfs_pointer(sha256, size)))

    def text(self, commit: Commit, path: str) -> str:
        return self.blob(commit.files[path].sha256).read_text("utf-8") if path in commit.files else ""

    def signed(self, method: str, sha256: str) -> str:
        """An address that needs no token, for this method and these bytes only."""
        signature = hmac.new(self._secret, f"{method} {sha256}".encode(), "sha256").hexdigest()
        return f"{self.storage}/storage/{sha256}/{signature}"

    def reply(self, method: str, target: str, headers, body: bytes) -> Reply:
        """The answer to one request, which is logged; requests are answered one at a time."""
        url = urlsplit(target)
        with self._lock:
            try:
                answer = self._route(method, url, headers, body)
            except Refused as refused:
                answer = refused.reply
            except Exception:  # The boundary: kept for `__exit__` to raise, whatever it is.
                self.faults.append(f"{method} {target}\n{traceback.format_exc()}")
                answer = Reply({"error": "the stand-in of the Hub broke"}, 500)
            self.requests.append((method, url.path, answer.status))
        return answer

    def _route(self, method: str, url, headers, body: bytes) -> Reply:
        authorization = headers.get("Authorization")
        user = self.tokens.get((authorization or "").removeprefix("Bearer "))
        if authorization and user is None:
            raise Refused(401, None, "Invalid credentials in Authorization header")
        request = Request(method, url.path, parse_qs(url.query), body, headers.get("Range"), user)
        for allowed, pattern, route in ROUTES:
            found = re.fullmatch(pattern, url.path)
            if found and allowed == ("GET" if method == "HEAD" else method):
                given = {name: unquote(value) for name, value in found.groupdict().items() if value is not None}
                answer = route(self, request, **given)
                return answer if isinstance(answer, Reply) else Reply(answer)
        raise Refused(501, None, f"this stand-in of the Hub does not offer {method} {quote(url.path)}")


class _Server(ThreadingHTTPServer):
    """One port, served from construction to `stop`, which waits for every connection to be closed."""

    # A connection left to a daemon thread would be a ResourceWarning in some later test.
    daemon_threads = False
    request_queue_size = 64

    def __init__(self, hub: HubServer):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0, a connection per request, so that no idle connection outlives the test."""

    timeout = 60

    def answer(self) -> None:
        # The body is read before anything is refused: a client still sending would meet a reset connection.
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        reply = self.server.hub.reply(self.command, self.path, self.headers, body)
        content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Type": "application/json", **reply.headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def log_message(self, *_) -> None:
        """Silent: the log is `HubServer.requests`."""
