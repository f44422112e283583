"""Encoders on the Hugging Face Hub: the real client against a small Hub on this machine.

``huggingface_hub`` reads its environment variables when it is imported, so :func:`connect` makes it be imported anew.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import torch
import yaml
from conftest import ROOT, cli_environment

from gqn_rl.cameras import CONVENTION
from gqn_rl.cli import main
from gqn_rl.config import UserError
from gqn_rl.encoder import SHIPPED, GQNEncoder, load_encoder
from gqn_rl.files import read_json
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.hub import Reference, download, find_reference, model_card, parse_reference, push_to_hub
from gqn_rl.types import Views

pytest.importorskip("huggingface_hub")

FILES = {"encoder.json", "encoder.safetensors", "README.md"}
#: Token -> its owner. A token of ours may write to repositories of ours.
TOKENS = {"hf_me": "me", "hf_other": "other"}
CAMERA = {"convention": CONVENTION, "fovy": 45.0, "image_size": [16, 16], "renderer": "mujoco 3.8.1"}
CONFIG = GQNConfig.from_mapping(
    {
        "image_size": 16,
        "representation": {"kind": "ray", "channels": 8, "width": 8, "heads": 2, "token_channels": 8},
        "generator": {"channels": 4, "steps": 1, "canvas_channels": 8, "mixing_channels": 0},
    }
)

Connect = Callable[..., None]


# A Hub --------------------------------------------------------------------------------------------------------


class Refusal(Exception):
    """An answer that is an error: its status, ``X-Error-Code`` and message."""


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repository:
    """Branches, and the files of each commit."""

    private: bool = False
    gated: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", {".gitattributes": b""})

    def at(self, revision: str) -> str:
        """The commit that a branch or a commit's own name means."""
        oid = self.branches.get(revision, revision)
        if oid not in self.commits:
            raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return oid

    def commit(self, branch: str, files: dict[str, bytes]) -> str:
        tree = {**self.commits.get(self.branches.get(branch, ""), {}), **files}
        oid = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[oid] = tree
        self.branches[branch] = oid
        return oid


class Hub(ThreadingHTTPServer):
    """As much of the Hub as the client needs to make a repository, commit to it and download from it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []  #: such as "GET /me/encoder/resolve/main/encoder.json"
        self.broken = False
        self.after: Callable[[str], None] = lambda request: None

    def fetched(self) -> list[str]:
        """Names of the files that were downloaded."""
        return [request.rpartition("/")[2] for request in self.requests if request.startswith("GET /me/")]

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    """The Hub's answers. Each closes its connection (HTTP/1.0), so that nobody answers once the Hub is closed."""

    server: Hub

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        request = f"{self.command} {self.path}"
        self.server.requests.append(request)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            if self.server.broken:
                raise Refusal(503, "", "the Hub is down")
            status, content, headers = self._route(body)
        except Refusal as refusal:
            status, code, message = refusal.args
            content, headers = b"", {"X-Error-Code": code, "X-Error-Message": message}
        if isinstance(content, dict):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.server.after(request)

    def _route(self, body: bytes) -> tuple[int, Any, dict[str, str]]:
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            metadata = yaml.safe_load(json.loads(body)["content"].split("---")[1])
            if metadata.get("license") in (None, "apache-2.0"):
                return 200, {"errors": [], "warnings": []}, {}
            return 400, {"errors": [{"message": '"license" must be one of [apache-2.0, ...]'}], "warnings": []}, {}
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/([^/]+)", path):
            repository = self._find(match[1], write=True)
            return self._write(repository, f"/{match[1]}", match[2], unquote(match[3]), body)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            repository = self._find(match[1])
            info = {"_id": "1", "id": match[1], "modelId": match[1], "private": repository.private, "siblings": []}
            return 200, {**info, "tags": [], "downloads": 0, "sha": repository.at(unquote(match[2] or "main"))}, {}
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(self._find(match[1]), unquote(match[2]), match[3])
        raise AssertionError(f"the Hub is not asked {self.command} {path}")

    def _user(self) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise Refusal(401, "", "Invalid credentials in Authorization header")
        return TOKENS.get(token)

    def _find(self, repo_id: str, write: bool = False) -> Repository:
        owner, user = repo_id.partition("/")[0], self._user()
        repository = self.server.repositories.get(repo_id)
        if repository is None or (repository.private and user != owner):
            raise Refusal(404, "RepoNotFound", "Repository not found")
        if write and user != owner:
            raise Refusal(403, "", f"You have no write access to {repo_id}")
        return repository

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any, dict[str, str]]:
        user = self._user()
        if user is None:
            raise Refusal(401, "", "Invalid username or password.")
        repo_id = f"{asked['organization'] or user}/{asked['name']}"
        if not repo_id.startswith(f"{user}/"):
            raise Refusal(403, "", "You don't have the rights to create a model under this namespace")
        answer = {"url": f"{self.server.endpoint}/{repo_id}", "name": repo_id}
        if repo_id in self.server.repositories:
            return 409, {**answer, "error": "You already created this model repo"}, {}
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server.repositories[repo_id] = Repository(private=private)
        return 200, answer, {}

    def _write(
        self, repository: Repository, path: str, what: str, branch: str, body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        if what == "branch":
            known = branch in repository.branches
            repository.branches.setdefault(branch, repository.branches["main"])
            return (409 if known else 201), {}, {}
        tree = repository.commits[repository.at(branch)]
        if what == "preupload":
            names = [file["path"] for file in json.loads(body)["files"]]
            known_as = {name: git_hash(tree[name]) if name in tree else None for name in names}
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return 200, {"files": [{**modes, "path": name, "oid": oid} for name, oid in known_as.items()]}, {}
        lines = [json.loads(line) for line in body.splitlines()]
        files = {line["value"]["path"]: line["value"] for line in lines if line["key"] == "file"}
        oid = repository.commit(branch, {path: base64.b64decode(file["content"]) for path, file in files.items()})
        url = f"{self.server.endpoint}{path}/commit/{oid}"
        return 200, {"commitUrl": url, "commitOid": oid, "success": True}, {}

    def _resolve(self, repository: Repository, revision: str, file: str) -> tuple[int, Any, dict[str, str]]:
        if repository.gated and self._user() is None:
            raise Refusal(401, "GatedRepo", "Access to this model is restricted")
        oid = repository.at(revision)
        if file not in repository.commits[oid]:
            raise Refusal(404, "EntryNotFound", "Entry not found")
        content = repository.commits[oid][file]
        return 200, content, {"ETag": f'"{git_hash(content)}"', "X-Repo-Commit": oid}


# Fixtures -----------------------------------------------------------------------------------------------------


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server
    server.close()
    thread.join()


@pytest.fixture
def connect(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Connects this process to ``hub``, in an empty folder, with a token of ours unless told otherwise."""

    def connect(**variables: str) -> None:
        for name in ("HF_TOKEN", *(name for name in os.environ if name.startswith("HF_HUB_"))):
            monkeypatch.delenv(name, raising=False)
        for name, value in {**settings(hub, tmp_path), **variables}.items():
            monkeypatch.setenv(name, value)
        forget()

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    connect(HF_TOKEN="hf_me")
    yield connect
    forget()


def settings(hub: Hub, folder: Path) -> dict[str, str]:
    quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1"}
    return {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), **quiet}


def forget() -> None:
    logging.getLogger("huggingface_hub").handlers.clear()  # each import adds one
    for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        del sys.modules[name]


def _views(scenes: int, views: int) -> Views:
    torch.manual_seed(0)
    return Views(torch.randint(0, 256, (scenes, views, 16, 16, 3), dtype=torch.uint8), torch.randn(scenes, views, 5))


def make_encoder(seed: int, **card: Any) -> GQNEncoder:
    torch.manual_seed(seed)
    return GQNEncoder.from_gqn(GQN(CONFIG), _views(32, 2), {"camera": CAMERA, **card})


@pytest.fixture
def encoder() -> GQNEncoder:
    return make_encoder(1)


# Push and load ------------------------------------------------------------------------------------------------


def test_pushed_and_loaded_gives_the_same_vectors(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    url = encoder.push_to_hub("me/encoder", commit_message="Here it is")
    repository = hub.repositories["me/encoder"]
    assert not repository.private
    assert len(repository.commits) == 2, "the empty repository's, and one with everything"
    assert repository.commits[repository.branches["main"]].keys() == {".gitattributes", *FILES}
    assert url.endswith(repository.branches["main"])
    for name in ("me/encoder", "hf://me/encoder", "me/encoder@main", f"me/encoder@{repository.branches['main']}"):
        again = load_encoder(name)
        assert isinstance(again, GQNEncoder)
        assert again.fingerprint == encoder.fingerprint
        written = {"model": CONFIG.to_dict(), "fingerprint": encoder.fingerprint}
        assert again.card == {**encoder.card, **written, "content_sha256": again.card["content_sha256"]}
        assert torch.equal(again.encode(*_views(3, 2)), encoder.encode(*_views(3, 2)))


def test_fetches_what_it_needs_and_that_once(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    push_to_hub(encoder, "me/encoder")
    hub.repositories["me/encoder"].commit("main", {"modeling.py": b"raise SystemExit", "encoder.pkl": b"cos\n"})
    for _ in range(2):
        GQNEncoder.from_pretrained("me/encoder")
    assert hub.fetched() == ["encoder.json", "encoder.safetensors"]


def test_cached_encoder_needs_no_network(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    push_to_hub(encoder, "me/encoder")
    GQNEncoder.from_pretrained("me/encoder")
    hub.broken = True
    assert GQNEncoder.from_pretrained("me/encoder").fingerprint == encoder.fingerprint
    hub.close()
    assert GQNEncoder.from_pretrained("me/encoder").fingerprint == encoder.fingerprint
    connect(HF_HUB_OFFLINE="1")
    assert GQNEncoder.from_pretrained("me/encoder").fingerprint == encoder.fingerprint


def test_branches_hold_encoders_of_their_own(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    other = make_encoder(2)
    push_to_hub(encoder, "me/encoder")
    first = push_to_hub(other, "me/encoder@v2/wide")
    assert push_to_hub(other, "me/encoder@v2/wide") == first, "nothing is new, so nothing is committed"
    assert GQNEncoder.from_pretrained("me/encoder").fingerprint == encoder.fingerprint
    assert GQNEncoder.from_pretrained("me/encoder@v2/wide").fingerprint == other.fingerprint
    push_to_hub(other, "hf://me/encoder")
    assert GQNEncoder.from_pretrained("me/encoder").fingerprint == other.fingerprint, "what is new is fetched"


def test_both_files_are_of_one_commit(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    push_to_hub(encoder, "me/encoder")

    def push_another(request: str) -> None:
        if request.startswith("GET") and request.endswith("encoder.json"):
            hub.after = lambda request: None
            main_branch = hub.repositories["me/encoder"]
            main_branch.commit("main", dict.fromkeys(FILES, b"of a later commit"))

    hub.after = push_another
    assert GQNEncoder.from_pretrained("me/encoder").fingerprint == encoder.fingerprint


def test_private_repository_is_for_its_owner(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    push_to_hub(encoder, "me/encoder", private=True)
    assert hub.repositories["me/encoder"].private
    push_to_hub(encoder, "me/encoder", private=True)
    connect(HF_TOKEN="hf_other")
    with pytest.raises(UserError, match=r"has no repository 'me/encoder' that you may see.*HF_TOKEN"):
        load_encoder("me/encoder")
    connect()
    push_to_hub(encoder, "me/encoder", token="hf_me")
    connect(HF_TOKEN="hf_me")
    assert load_encoder("me/encoder").size == encoder.size


def test_never_published_when_it_should_be_private(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    hub.repositories["me/encoder"] = Repository()
    with pytest.raises(UserError, match="me/encoder is public: make it private in its settings"):
        push_to_hub(encoder, "me/encoder", private=True)
    assert len(hub.repositories["me/encoder"].commits) == 1


def test_command_line_pushes(hub: Hub, connect: Connect, encoder: GQNEncoder, tmp_path: Path) -> None:
    encoder.save_pretrained(tmp_path / "mine" / "encoder")
    command = [sys.executable, ROOT / "train.py", "push", tmp_path / "mine", "me/encoder@v1", "--private"]
    environment = {**cli_environment(), **settings(hub, tmp_path), "HF_TOKEN": "hf_me"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert hub.repositories["me/encoder"].branches["v1"] in done.stdout
    assert "--encoder me/encoder@v1" in done.stdout
    assert hub.repositories["me/encoder"].private
    assert GQNEncoder.from_pretrained("me/encoder@v1").fingerprint == encoder.fingerprint


def test_the_page_gets_a_licence_and_what_a_probe_found(
    hub: Hub, connect: Connect, encoder: GQNEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.save_pretrained(tmp_path / "mine" / "encoder")
    probes = {**read_json(SHIPPED / "arm-reach.json")["probes"], "encoder": encoder.fingerprint}
    (tmp_path / "probe.json").write_text(json.dumps(probes))
    told = ["--license", "apache-2.0", "--probe", str(tmp_path)]
    assert main(["push", str(tmp_path / "mine"), "me/encoder", *told]) == 0
    repository = hub.repositories["me/encoder"]
    page = repository.commits[repository.at("main")]["README.md"].decode()
    published = GQNEncoder.from_pretrained("me/encoder").card
    assert "license: apache-2.0" in page
    assert "| target, cameras inside |" in page
    assert (published["license"], published["probes"]) == ("apache-2.0", probes)
    commits = len(repository.commits)
    make_encoder(2).save_pretrained(tmp_path / "other" / "encoder")
    for arguments, words in (
        ([str(tmp_path / "other"), "me/encoder", *told], "is a probe of another encoder than"),
        ([str(tmp_path / "mine"), "me/encoder", "--probe", str(tmp_path / "none")], "cannot read"),
        (["conftest:ToyEncoder", "me/encoder"], "conftest:ToyEncoder is a class of your own"),
    ):
        assert main(["push", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert len(repository.commits) == commits


def test_command_line_says_in_one_line_what_is_wrong(
    hub: Hub, connect: Connect, encoder: GQNEncoder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder.save_pretrained(tmp_path / "encoder")
    assert main(["push", str(tmp_path), "you/encoder"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: you may not write to you/encoder")


# Names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("me/encoder", Reference("me/encoder")),
        ("hf://me/encoder", Reference("me/encoder")),
        ("me/enc.v1_2-b@refs/pr/3", Reference("me/enc.v1_2-b", "refs/pr/3")),
        ("arm-reach", None),
        ("arm-reach@v1", None),
        ("./me/encoder", None),
        ("../encoder", None),
        ("/me/encoder", None),
        ("~/encoder", None),
        ("me/encoder/", None),
        ("me/encoder@", None),
        ("me/my/encoder", None),
        ("me/encoder.safetensors", None),
        ("module:Class", None),
        ("C:/encoder", None),
    ],
)
def test_which_names_are_repositories(name: str, meant: Reference | None) -> None:
    assert find_reference(name) == meant
    if meant is not None:
        assert parse_reference(str(meant)) == meant


def test_path_that_is_mistyped_is_not_looked_for_on_the_hub(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    push_to_hub(encoder, "me/encoder")
    Path("me").mkdir()
    hub.requests.clear()
    with pytest.raises(UserError, match="no encoder 'me/encoder'"):
        load_encoder("me/encoder")
    assert not hub.requests
    assert load_encoder("hf://me/encoder").size == encoder.size
    make_encoder(2).save_pretrained(Path("me") / "encoder" / "encoder")
    assert GQNEncoder.from_pretrained("me/encoder").fingerprint != encoder.fingerprint


@pytest.mark.parametrize("name", ["hf://", "hf://encoder", "hf://datasets/me/encoder", "hf://me/encoder@"])
def test_malformed_repository_says_how_one_is_written(name: str, encoder: GQNEncoder) -> None:
    for act in (load_encoder, lambda name: push_to_hub(encoder, name)):
        with pytest.raises(UserError, match=r"is no repository .* write owner/name or owner/name@revision"):
            act(name)


# Errors -------------------------------------------------------------------------------------------------------


def message(act: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_each_thing_that_can_be_missing_is_named(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    push_to_hub(encoder, "me/encoder")
    hub.repositories["me/empty"] = Repository()
    hub.repositories["me/half"] = Repository()
    hub.repositories["me/half"].commit("main", {"encoder.json": b"{}"})
    hub.repositories["me/gated"] = Repository(gated=True)
    expected = {
        "me/encodr": f"({hub.endpoint}) has no repository 'me/encodr' that you may see, and there is no such folder",
        "me/encoder@v9": "the repository me/encoder has no branch, tag or commit 'v9'",
        "me/empty": "me/empty holds no encoder: there is no encoder.json in it",
        "me/half": "me/half holds no encoder: there is no encoder.safetensors in it",
        "hf://me--and/encoder": "Cannot have -- or ..",
    }
    for name, words in expected.items():
        assert words in message(partial(load_encoder, name))
    connect(HF_TOKEN="hf_wrong")
    assert "does not know you (Invalid credentials" in message(lambda: load_encoder("me/encoder"))
    connect()
    gated = message(lambda: load_encoder("me/gated"))
    assert gated.startswith(f"me/gated is gated: ask for access on {hub.endpoint}/me/gated, then set HF_TOKEN")


def test_hub_out_of_reach(hub: Hub, connect: Connect, encoder: GQNEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the client waits between its attempts
    hub.broken = True
    for act in (lambda: load_encoder("me/encoder"), lambda: push_to_hub(encoder, "me/encoder")):
        assert f"me/encoder: the Hugging Face Hub ({hub.endpoint}) cannot be used (" in message(act)
    hub.close()
    unreachable = message(lambda: load_encoder("me/encoder"))
    assert hub.endpoint in unreachable
    assert "refused" in unreachable
    assert unreachable.endswith("encoder.json is not in the cache either")
    assert "refused" in message(lambda: push_to_hub(encoder, "me/encoder"))
    connect(HF_HUB_OFFLINE="1")
    assert "HF_HUB_OFFLINE is set" in message(lambda: load_encoder("me/encoder"))
    assert "HF_HUB_OFFLINE is set" in message(lambda: push_to_hub(encoder, "me/encoder"))


def test_refused_pushes_say_why_and_leave_nothing(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    hub.repositories["me/encoder"] = Repository()
    assert "may not write to you/encoder" in message(lambda: push_to_hub(encoder, "you/encoder"))
    assert "must be one of" in message(lambda: push_to_hub(make_encoder(1, license="my own"), "me/encoder"))
    connect(HF_TOKEN="hf_other")
    assert "You have no write access to me/encoder" in message(lambda: push_to_hub(encoder, "me/encoder"))
    connect()
    assert "set HF_TOKEN, or log in" in message(lambda: push_to_hub(encoder, "me/encoder"))
    assert len(hub.repositories["me/encoder"].commits) == 1
    assert hub.repositories.keys() == {"me/encoder"}


def test_without_the_library_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, encoder: GQNEncoder, tmp_path: Path
) -> None:
    encoder.save_pretrained(tmp_path / "encoder")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for act in (lambda: load_encoder("me/encoder"), lambda: push_to_hub(encoder, "me/encoder")):
        assert "me/encoder" in message(act)
        assert "pip install 'gqn-rl[hub]'" in message(act)
    assert load_encoder(str(tmp_path)).size == encoder.size


# The page -----------------------------------------------------------------------------------------------------


def test_page_says_what_the_card_says() -> None:
    card = {**read_json(SHIPPED / "arm-reach.json"), "license": "Apache-2.0"}
    card.pop("probes", None)
    page = model_card(card, Reference("me/encoder", "v2"), 64)
    from huggingface_hub import ModelCard

    metadata = ModelCard(page).data
    assert (metadata.license, metadata.library_name) == ("apache-2.0", "gqn-rl")
    assert "reinforcement-learning" in (metadata.tags or [])
    probes = {line.split(" | ")[0]: line for line in page.splitlines() if line.startswith("|")}
    for name in ("target", "hand"):
        assert f"{card['held_out'][f'{name}_r2']:.3f}" in probes[f"| {name}"]
        assert f"{card['held_out'][f'{name}_cm']:.1f} cm" in probes[f"| {name}"]
    for fact in (
        card["description"],
        CONVENTION,
        "45 degrees",
        "64 x 64",
        f"{card['data']['scenes']} scenes",
        f"{card['pretraining']['steps']} steps",
        "--encoder me/",
    ):
        assert fact in page
    for line in page.split("---", 2)[2].splitlines():
        assert "None" not in line


def test_page_shows_what_the_probe_measured() -> None:
    """Every figure of every region, quantity and number of views is in the line of its region and quantity."""
    readings = {str(k): {"r2": 0.9 + k / 100, "median_error_cm": 10.0 / k} for k in (1, 2)}
    shapes = {str(k): {"accuracy": 0.5 + k / 10, "chance": 0.25} for k in (1, 2)}
    colors = {str(k): {"r2": k / 4} for k in (1, 2)}
    ridge = {"inside": {"hand": readings, "shape": shapes, "color": colors}}
    drawing = {"inside": {"psnr_db": 27.04, "posterior_psnr_db": 31.0, "scenes": 45}}
    probes = {"ridge": ridge, "drawing": drawing, "scenes": 123, "outside_degrees": None}
    page = model_card({"camera": CAMERA, "probes": probes}, Reference("me/encoder"), 64)
    assert "| quantity | 1 view | 2 views |" in page
    assert "| hand, cameras inside | R2 0.910, 10.0 cm | R2 0.920, 5.0 cm |" in page
    assert "| shape, cameras inside | 60.0% right (chance 25.0%) | 70.0% right (chance 25.0%) |" in page
    assert "| color, cameras inside | R2 0.250 | R2 0.500 |" in page
    assert "fitted on half of 123 held-out scenes: R2 and median error on the others, cameras inside the region" in page
    assert "a PSNR of 27.0 dB from the prior and 31.0 dB from the posterior, 45 scenes, cameras inside" in page


def test_page_of_a_source_without_named_quantities_has_no_table_of_them() -> None:
    probes = {"ridge": {}, "drawing": {}, "scenes": 123, "outside_degrees": None}
    page = model_card({"camera": CAMERA, "probes": probes}, Reference("me/encoder"), 64)
    assert "linear probe" not in page
    assert "## Camera" in page


def test_page_of_a_bare_card_leaves_out_what_it_does_not_know(hub: Hub, connect: Connect) -> None:
    push_to_hub(make_encoder(1), "me/encoder")
    repository = hub.repositories["me/encoder"]
    page = repository.commits[repository.branches["main"]]["README.md"].decode()
    assert "license" not in page
    assert re.findall(r"^## (.*)", page, re.MULTILINE) == ["Use", "Camera", "Limits"]


def test_page_s_example_runs(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    push_to_hub(encoder, "me/encoder@v2")
    repository = hub.repositories["me/encoder"]
    page = repository.commits[repository.branches["v2"]]["README.md"].decode()
    (block,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    images, poses = _views(3, 2)
    names: dict[str, Any] = {"images": images, "poses": poses}
    exec(compile(block, "README.md", "exec"), names)
    assert torch.equal(names["vectors"], encoder.encode(images, poses))


def test_download_gives_a_folder_that_is_an_encoder(hub: Hub, connect: Connect, encoder: GQNEncoder) -> None:
    push_to_hub(encoder, "me/encoder")
    folder = download(Reference("me/encoder"))
    assert {path.name for path in folder.iterdir()} == {"encoder.json", "encoder.safetensors"}
    assert GQNEncoder.from_pretrained(folder).fingerprint == encoder.fingerprint
