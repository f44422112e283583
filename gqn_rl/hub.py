"""Encoders in repositories of the Hugging Face Hub: ``owner/name``, ``owner/name@revision``, ``hf://owner/name``.

Two files are fetched, by name, and neither can hold code: ``encoder.safetensors`` and ``encoder.json``. Endpoint,
token, cache and offline mode are those of ``huggingface_hub`` (``HF_ENDPOINT``, ``HF_TOKEN``, ``HF_HOME``,
``HF_HUB_OFFLINE``), which comes with the extra ``hub``.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import yaml

from gqn_rl import __version__, photographed
from gqn_rl.config import UserError
from gqn_rl.files import read_json

if TYPE_CHECKING:
    from gqn_rl.encoder import GQNEncoder

#: What a name may begin with that is to be looked for on the Hub, whatever lies in the folder where one stands.
SCHEME: Final = "hf://"

_LIBRARY: Final = "gqn-rl"
_CARD, _WEIGHTS, _PAGE = "encoder.json", "encoder.safetensors", "README.md"
_REFERENCE: Final = re.compile(r"(\w[\w.-]*/\w[\w.-]*)(?:@([^@\s]+))?", re.ASCII)
_LOG_IN: Final = "set HF_TOKEN, or log in with 'hf auth login'"


class Reference(NamedTuple):
    """A repository of models, at one of its revisions."""

    repo_id: str  #: owner/name
    revision: str | None = None  #: a branch, tag or commit; None: the branch ``main``

    def __str__(self) -> str:
        return self.repo_id if self.revision is None else f"{self.repo_id}@{self.revision}"


def parse_reference(name: str) -> Reference:
    """``owner/name`` or ``owner/name@revision``, with or without ``hf://``; :class:`UserError` for anything else."""
    match = _REFERENCE.fullmatch(name.removeprefix(SCHEME))
    if match is None:
        raise UserError(f"{name!r} is no repository of the Hugging Face Hub; write owner/name or owner/name@revision")
    return Reference(match[1], match[2])


def find_reference(name: str) -> Reference | None:
    """The repository that ``name`` means; None when it means something else.

    ``owner/name`` is a path where a folder ``owner`` lies here, even if it holds no ``name``: a mistyped path is
    then an error, and not somebody else's encoder. ``hf://owner/name`` always is a repository.

    Raises:
        UserError: ``hf://`` is followed by something else than a repository.
    """
    if name.startswith(SCHEME):
        return parse_reference(name)
    match = _REFERENCE.fullmatch(name)
    if match is None or name.endswith(".safetensors") or Path(match[1]).parent.is_dir():
        return None
    return Reference(match[1], match[2])


def download(reference: Reference) -> Path:
    """The folder, in the library's cache, with the repository's ``encoder.safetensors`` and ``encoder.json``.

    Both files are of one commit. What is in the cache is not fetched again, and is found without a network.

    Raises:
        UserError: ``huggingface_hub`` is not installed; no such repository, revision or file; no permission; the
            Hub cannot be reached and the encoder is not in the cache.
    """
    library = _library(f"load {reference} from the Hugging Face Hub")
    api = library.HfApi(library_name=_LIBRARY, library_version=__version__)
    revision = reference.revision
    for file in (_CARD, _WEIGHTS):
        with _one_line(reference, fetching=file):
            path = Path(api.hf_hub_download(reference.repo_id, file, revision=revision))
        # The cache is a folder for each commit. The weights are the card's, whatever is pushed in the meantime.
        revision = path.parent.name
    return path.parent


def push_to_hub(
    encoder: GQNEncoder,
    repository: str,
    *,
    private: bool = False,
    commit_message: str = "Upload a scene encoder",
    token: str | None = None,
) -> str:
    """Upload weights, card and a page that describes them (``README.md``) in one commit; returns the commit's URL.

    Repository and branch are made where there are none. The page is written anew each time; earlier ones stay in the
    repository's history.

    Args:
        encoder: what is uploaded.
        repository: what it is loaded by afterwards: ``owner/name``, or ``owner/name@branch``.
        private: nobody but the owner may see the repository; False leaves that to the owner's settings.
        commit_message: what the history says of the upload.
        token: one that may write; None is ``HF_TOKEN``, or that of ``hf auth login``.

    Raises:
        UserError: ``huggingface_hub`` is not installed; ``repository`` is malformed; no permission; the Hub cannot be
            reached; ``private``, but the repository is there and public.
    """
    reference = parse_reference(repository)
    repo_id, branch = reference
    library = _library(f"push to {reference} on the Hugging Face Hub")
    api = library.HfApi(token=token, library_name=_LIBRARY, library_version=__version__)
    with tempfile.TemporaryDirectory() as folder:
        encoder.save_pretrained(Path(folder) / "encoder")
        page = model_card(read_json(Path(folder) / _CARD), reference, encoder.size)
        additions = [
            library.CommitOperationAdd(path_in_repo=_CARD, path_or_fileobj=Path(folder) / _CARD),
            library.CommitOperationAdd(path_in_repo=_WEIGHTS, path_or_fileobj=Path(folder) / _WEIGHTS),
            library.CommitOperationAdd(path_in_repo=_PAGE, path_or_fileobj=page.encode()),
        ]
        with _one_line(reference):
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            # create_repo leaves a repository that is there as it is, and so it may be public.
            if private and not api.model_info(repo_id).private:
                raise UserError(f"{repo_id} is public: make it private in its settings, or push to another repository")
            if branch is not None:
                api.create_branch(repo_id, branch=branch, exist_ok=True)
            commit = api.create_commit(repo_id, additions, commit_message=commit_message, revision=branch)
    return str(commit.commit_url)


# The page -----------------------------------------------------------------------------------------------------


def model_card(card: Mapping[str, Any], reference: Reference, size: int) -> str:
    """The ``README.md`` of a repository: metadata that the Hub reads, and what ``card`` says, for people.

    Args:
        card: an encoder's card, as it is saved; sections that it lacks are left out.
        reference: the repository that the page stands in.
        size: length of the encoder's vector.
    """
    metadata = {
        "library_name": _LIBRARY,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["generative-query-network", "scene-representation", "reinforcement-learning", "robotics"],
    }
    if "license" in card:
        metadata["license"] = str(card["license"]).lower()
    height, width = card["camera"]["image_size"]
    parts = [
        f"---\n{yaml.safe_dump(metadata, sort_keys=False)}---",
        f"# {reference.repo_id.partition('/')[2]}",
        f"{card.get('description', 'A GQN scene encoder')}. It turns what any number of cameras see at one moment into "
        f"one vector of {size} numbers.",
        "## Use",
        "With gqn-rl and its extra `hub`:",
        "```python\n"
        "from gqn_rl.encoder import GQNEncoder\n\n"
        f'encoder = GQNEncoder.from_pretrained("{reference}")\n'
        f"vectors = encoder.encode(images, poses)  # (B, {size}) float32\n"
        "```",
        f"`images` are (B, K, {height}, {width}, 3) uint8, `poses` (B, K, 5) float32. "
        f"To train a policy on the vectors: `gqn-rl train --env {_scenes(card)} --encoder {reference}`.",
        *_section("## What a linear probe reads off it", _probes(card), _judged(card, size)),
        *_section("## Camera", _camera(card["camera"])),
        *_section("## Recipe", _recipe(card), f"All of it is in `{_CARD}`."),
        "## Limits",
        _limits(card),
    ]
    return "\n\n".join(parts) + "\n"


def _section(title: str, table: str, below: str = "") -> list[str]:
    return [title, table, *([below] if below else [])] if table else []


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table in Markdown; empty when it has no rows."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(lines) > 2 else ""


def _probes(card: Mapping[str, Any]) -> str:
    """What ``probe`` measured, where the card has it; else what pretraining did on the recording's last scenes."""
    if "probes" in card:
        found = card["probes"]["ridge"]
        if not found:  # a source without named quantities has nothing to read off
            return ""
        counts = list(next(iter(found["inside"].values())))
        rows = [
            (f"{name}, cameras {region}", *(_reading(views[count]) for count in counts))
            for region, names in found.items()
            for name, views in names.items()
        ]
        return _table(("quantity", *(f"{count} view{'s' * (count != '1')}" for count in counts)), rows)
    numbers = card.get("held_out", {})
    names = [key.removesuffix("_r2") for key in numbers if key.endswith("_r2")]
    rows = [
        (name, f"{numbers[f'{name}_r2']:.3f}", f"{numbers[f'{name}_cm']:.1f} cm")
        for name in names
        if f"{name}_cm" in numbers
    ]
    return _table(("quantity", "R2", "median error"), rows)


def _reading(numbers: Mapping[str, float | None]) -> str:
    if "accuracy" in numbers:
        return f"{numbers['accuracy']:.1%} right (chance {numbers['chance']:.1%})"
    if numbers["r2"] is None:
        return "does not vary"
    if "median_error_cm" not in numbers:
        return f"R2 {numbers['r2']:.3f}"
    return f"R2 {numbers['r2']:.3f}, {numbers['median_error_cm']:.1f} cm"


def _judged(card: Mapping[str, Any], size: int) -> str:
    if "probes" in card:
        found = card["probes"]
        degrees = found["outside_degrees"]
        regions = "inside the region of training" + (
            "" if degrees is None else f" and up to {degrees:g} degrees outside"
        )
        drawn = "".join(
            f" Views that it did not get are drawn with a PSNR of {numbers['psnr_db']:.1f} dB from the prior and "
            f"{numbers['posterior_psnr_db']:.1f} dB from the posterior, {numbers['scenes']} scenes, cameras {region}."
            for region, numbers in found.get("drawing", {}).items()
            if "posterior_psnr_db" in numbers  # cards of before that was measured
        )
        return (
            f"Ridge regression from the vector, fitted on half of {found['scenes']} held-out scenes: R2 and median "
            f"error on the others, cameras {regions}.{drawn}"
        )
    settings = card.get("pretraining", {})
    scenes, views = settings.get("held_out", "held-out"), settings.get("max_context", "several")
    return (
        f"Ridge regression from the representation, before it is projected to {size} numbers; fitted on training "
        f"scenes, scored on {scenes} others; views per scene: {views}."
    )


def _camera(camera: Mapping[str, Any]) -> str:
    height, width = camera["image_size"]
    rows = [
        ("image size", f"{height} x {width} pixels (height x width)"),
        ("field of view", f"{camera['fovy']:g} degrees, vertical"),
        ("pose", str(camera["convention"])),
        ("renderer", str(camera["renderer"])),
    ]
    return _table(("", ""), rows)


def _recipe(card: Mapping[str, Any]) -> str:
    stages = [*card.get("lineage", []), card]
    rows = [row for number, stage in enumerate(stages, start=1) for row in _stage(stage, number, len(stages))]
    if version := card.get("gqn_rl"):
        rows.append(("gqn-rl", str(version)))
    return _table(("", ""), rows)


def _stage(card: Mapping[str, Any], number: int, of: int) -> list[tuple[str, str]]:
    """Of one of the recordings that an encoder was pretrained on, one after the other."""
    rows = [("stage", f"{number} of {of}")] if of > 1 else []
    if data := card.get("data"):
        rows.append(("environment", f"`{data['env']}`"))
        if data.get("env_kwargs"):
            rows.append(("its arguments", f"`{json.dumps(data['env_kwargs'])}`"))
        rows.append(("recording", f"{data['scenes']} scenes of {data['views']} views, seed {data['seed']}"))
    if settings := card.get("pretraining"):
        rows.append(
            ("pretraining", f"{settings['steps']} steps of {settings['batch']} scenes, seed {settings['seed']}")
        )
    if compute := card.get("compute"):
        rows.append(("took", f"{compute['wall_minutes']} minutes ({compute['device']}, torch {compute['torch']})"))
    return rows


def _scenes(card: Mapping[str, Any]) -> str:
    """The environment that an encoder knows: in a camera rig, the one inside."""
    recipe = card.get("data", {})
    return photographed(recipe.get("env"), recipe.get("env_kwargs", {})) or "ID"


def _limits(card: Mapping[str, Any]) -> str:
    scenes = f"scenes of `{_scenes(card)}`" if "data" in card else "the scenes that it was trained on"
    return (
        f"- It knows {scenes}, as the recording drew them, and no others.\n"
        "- Images need the size and the field of view above: `encoder.check` refuses others, and warns of another "
        "renderer, whose pixels may differ.\n"
        "- A vector is of one moment: it holds no velocity.\n"
        "- The figures are those of simulated pictures; nothing was measured on a real camera."
    )


# What the library raises --------------------------------------------------------------------------------------


def _library(purpose: str) -> ModuleType:
    try:
        import huggingface_hub
    except ImportError:
        raise UserError(f"to {purpose}, the extra `hub` is needed: pip install 'gqn-rl[hub]'") from None
    return huggingface_hub


@contextmanager
def _one_line(reference: Reference, fetching: str | None = None) -> Iterator[None]:
    """Turn whatever goes wrong with ``reference`` into a :class:`UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # errors of the HTTP client get through, and which client it is depends on the version
        raise UserError(_explain(error, reference, fetching)) from error


def _explain(error: BaseException, reference: Reference, fetching: str | None) -> str:
    from huggingface_hub import constants, errors

    repo_id, hub = reference.repo_id, f"the Hugging Face Hub ({constants.ENDPOINT})"
    uncached = ""
    if isinstance(error, errors.LocalEntryNotFoundError):
        uncached = f"; {fetching} is not in the cache either"
        error = error.__cause__ or error
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{reference} cannot be reached: HF_HUB_OFFLINE is set{uncached}"
    if isinstance(error, errors.GatedRepoError):
        return f"{repo_id} is gated: ask for access on {constants.ENDPOINT}/{repo_id}, then {_LOG_IN}"
    if isinstance(error, errors.RepositoryNotFoundError):
        nor = ", and there is no such folder here" if fetching and not Path(repo_id).is_dir() else ""
        return f"{hub} has no repository {repo_id!r} that you may see{nor}; if it is private, {_LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"the repository {repo_id} has no branch, tag or commit {reference.revision!r}"
    if isinstance(error, errors.EntryNotFoundError):
        return f"{reference} holds no encoder: there is no {fetching} in it"
    reason = " ".join((getattr(error, "server_message", None) or str(error) or type(error).__name__).split())
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return f"{hub} does not know you ({reason}); {_LOG_IN}"
    if status == 403:
        do = "read" if fetching else "write to"
        return f"you may not {do} {repo_id} ({reason}); {_LOG_IN}, with a token that may"
    return f"{reference}: {hub} cannot be used ({reason}){uncached}"
