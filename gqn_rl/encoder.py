"""The frozen scene encoder: a pretrained GQN's representation network as a :class:`gqn_rl.types.SceneEncoder`.

On disk an encoder is two files side by side: weights (``.safetensors``, the whole GQN, so that it can still draw
what it imagines) and a card (``.json``): configuration, camera, data recipe, cost and probe figures.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Self

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from gqn_rl.cameras import check_camera, is_whole
from gqn_rl.config import UserError
from gqn_rl.files import read_json, write_bytes, write_json
from gqn_rl.gaussians import log_spreads
from gqn_rl.gqn import GQN, GQNConfig
from gqn_rl.hub import SCHEME, download, find_reference, push_to_hub
from gqn_rl.types import POSE_SIZE, SceneEncoder, Views

#: What stands before an encoder's name for the same encoder at initialisation.
UNTRAINED = "untrained:"
#: Where shipped encoders lie.
SHIPPED = Path(__file__).resolve().parent / "pretrained"

#: The entry of a card with the hash of all of an encoder's weights, also of those that the vector does not depend on.
CONTENT: Final = "content_sha256"
_MEAN, _PROJECTION, _MOVING = "output.mean", "output.projection", "output.moving"
#: A point moves if its standard deviation over scenes is at least this share of that of the point that moves most.
#: ArmReach: 19 of 48 points do, FetchReach: 25. Tried with policies: this share, and none.
MOVES: Final = 0.3


class GQNEncoder(nn.Module):
    """Views of one moment to one vector whose scale does not depend on how many views there are.

    Of a representation of points: their coordinates in the room, divided by ``unit`` metres, then the principal
    components of the free features, if it has any. Of any other: the principal components of the mean over views (the
    paper sums; ``gqn.represent`` is the plain sum), or of all cells of a plan. Principal components hold first what
    varies most over scenes. Points and components are each divided by one number, such that their variance over
    training scenes is 1 on average: a policy sees numbers of order one, and small variations stay small.

    Args:
        gqn: the trained network. It is frozen: in ``eval`` mode whatever is asked, and without gradients.
        mean: (C,) what is taken off the vector of the representation network.
        projection: (C, size), what the rest is multiplied with.
        card: facts about the encoder; ``card["camera"]`` is what :meth:`check` compares.
        moving: (P,) bool, which of the points are elsewhere in other scenes; all of them by default. The others keep to
            what stands still.
    """

    def __init__(
        self, gqn: GQN, mean: Tensor, projection: Tensor, card: Mapping[str, Any], moving: Tensor | None = None
    ) -> None:
        super().__init__()
        self.gqn = gqn
        self.mean: Tensor
        self.projection: Tensor
        self.register_buffer("mean", mean)
        self.register_buffer("projection", projection)
        self.card = dict(card)
        self.size = projection.shape[1]
        #: How many points the vector begins with, three entries each, in ``unit`` metres.
        self.points = gqn.representation.points
        if moving is not None and moving.shape != (self.points,):
            raise ValueError(f"moving is of shape {tuple(moving.shape)}, must be ({self.points},), one for each point")
        self.moving: Tensor
        self.register_buffer("moving", torch.ones(self.points, dtype=torch.bool) if moving is None else moving)
        self.unit = gqn.config.length_scale / float(projection[0, 0]) if self.points else 1.0
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode: algorithms call ``train()`` on every module they hold."""
        return super().train(False)

    @torch.inference_mode()
    def encode(self, images: Tensor, poses: Tensor) -> Tensor:
        """``images`` (B, K, H, W, 3) uint8 and ``poses`` (B, K, 5) to (B, size) float32; K >= 1."""
        return self(images, poses)

    def forward(self, images: Tensor, poses: Tensor) -> Tensor:
        """The same as :meth:`encode`, with gradients for whoever trains the representation network on."""
        if poses.ndim != 3 or poses.shape[1] < 1:
            raise ValueError(f"poses must be (B, K, {POSE_SIZE}) with K of at least 1, got {tuple(poses.shape)}")
        return self.read(self.share(images, poses))

    def share(self, images: Tensor, poses: Tensor) -> Tensor:
        """What these views add to what is known of their scenes: (B, M) float64, to be added to other views' shares.

        It ends with the number of views.
        """
        # Views from one place are far surer across their rays than along them: a sum of hundreds needs the digits.
        shares = self.gqn.represent_views(Views(images, poses)).double()
        views = shares.new_full((len(shares), 1), shares.shape[1])
        return torch.cat([shares.sum(dim=1).flatten(1), views], dim=1)

    def read(self, total: Tensor) -> Tensor:
        """The vectors (B, size) of scenes, of a sum of shares (B, M)."""
        network = self.gqn.representation
        summed = total[:, :-1].unflatten(1, network.out_shape)
        return (network.vector_of_sum(summed, total[:, -1]).float() - self.mean) @ self.projection

    def certainty(self, total: Tensor) -> Tensor:
        """How sure the views are of each point, of a sum of shares (B, M): (B, points) float32, 0 or more.

        By how much the point's standard deviation has shrunk, as a logarithm: 0 is what is known before any view, and
        a point that is known ten times as well has 2.3.
        """
        network = self.gqn.representation
        prior = network.prior
        if prior is None:
            raise ValueError(f"representation {self.gqn.config.representation.kind!r} has no points to be certain of")
        seen = network.gaussians(total[:, :-1].unflatten(1, network.out_shape)) + prior
        return (log_spreads(prior) - log_spreads(seen)).float()

    def without_generator(self) -> GQNEncoder:
        """A copy that encodes the same and can no longer draw: half the weights, for whoever only looks."""
        other = copy.deepcopy(self)
        other.gqn.generator = nn.Identity()  # type: ignore[assignment]
        return other

    @property
    def fingerprint(self) -> str:
        """A hash of everything that decides the vector: weights, projection, and what the weights do not say."""
        config = self.gqn.config
        rest = [config.image_size, config.fovy, config.length_scale]
        representation = config.representation
        rest += [representation.kind, representation.token_stride]
        if representation.kind == "plan":
            rest += list(representation.plan(config.length_scale))
        digest = hashlib.sha256(json.dumps(rest).encode())
        weights = {**self.gqn.representation.state_dict(), _MEAN: self.mean, _PROJECTION: self.projection}
        hash_tensors(digest, weights)
        return digest.hexdigest()[:16]

    def check(self, camera: Mapping[str, Any]) -> None:
        """Compare an environment's ``camera_metadata`` with what the encoder was trained on.

        Raises:
            UserError: another pose convention, image size or field of view, or one that is not told.

        Warns:
            UserWarning: another renderer version, whose pixels may differ a little.
        """
        check_camera(camera)
        mine = self.card["camera"]
        if tuple(camera["image_size"]) != tuple(mine["image_size"]):
            raise UserError(
                f"image_size is {tuple(camera['image_size'])}, but the encoder was trained on "
                f"{tuple(mine['image_size'])}: set env.kwargs.image_size, or choose another encoder"
            )
        if not math.isclose(camera["fovy"], mine["fovy"], rel_tol=1e-3):
            raise UserError(
                f"the cameras' field of view is {camera['fovy']:g} degrees, but the encoder was trained at "
                f"{mine['fovy']:g} degrees; choose another encoder, or pretrain one on this environment"
            )
        if camera["convention"] != mine["convention"]:
            raise UserError(f"the poses mean {camera['convention']!r}, but the encoder expects {mine['convention']!r}")
        if camera["renderer"] != mine["renderer"]:
            warnings.warn(
                f"pictures come from {camera['renderer']}, the encoder was trained on {mine['renderer']}", stacklevel=2
            )

    @classmethod
    def from_gqn(cls, gqn: GQN, views: Views, card: Mapping[str, Any], size: int = 64) -> GQNEncoder:
        """Freeze a trained ``gqn``; what varies how much is measured on ``views`` (N, K) of N training scenes.

        ``size``, at least 1, is the number of principal components, cut to how many there are. Where the components
        beyond 64 were left out, ridge probes did as well or better (ArmReach, ray attention: target R2 0.971 with 64,
        0.962 with all 256).
        """
        if not is_whole(size) or size < 1:
            raise ValueError(f"size must be a whole number of at least 1, got {size!r}")
        with torch.inference_mode():
            parts = zip(views.images.split(256), views.poses.split(256), strict=True)
            vectors = [gqn.representation.vector(gqn.represent_views(Views(*part))).float() for part in parts]
            points, features = torch.cat(vectors).tensor_split([3 * gqn.representation.points], dim=1)
            mean = torch.cat([points.new_zeros(points.shape[1]), features.mean(0)])
            parts_of_vector, moving = [], None
            if points.shape[1]:
                spreads = points.unflatten(1, (-1, 3)).var(0).sum(1).sqrt()
                moving = spreads >= MOVES * spreads.max()
                spread = (points - points.mean(0)).square().mean().sqrt().clamp_min(1e-6)
                parts_of_vector.append(torch.eye(points.shape[1], device=points.device) / spread)
            if features.shape[1]:
                parts_of_vector.append(_principal(features, size))
            projection = torch.block_diag(*parts_of_vector)
        return cls(gqn, mean.clone(), projection.contiguous().clone(), card, None if moving is None else moving.clone())

    @classmethod
    def untrained(cls, name: str | Path, seed: int = 0) -> GQNEncoder:
        """What :meth:`from_pretrained` finds, at initialisation: a control that tells architecture from learning.

        The weights are drawn anew from ``seed``. Mean and projection, which fit the trained network's vector to what
        a policy expects, stay as they are.
        """
        trained = cls.from_pretrained(name)
        with torch.random.fork_rng([]):
            torch.default_generator.manual_seed(seed)  # not those of GPUs, which fork_rng would not put back
            gqn = GQN(trained.gqn.config)
        return cls(gqn, trained.mean, trained.projection, trained.card, trained.moving)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> GQNEncoder:
        """Load an encoder: a shipped one by name, a folder or ``.safetensors`` file, or one of the Hugging Face Hub.

        ``owner/name`` and ``owner/name@revision`` are repositories of the Hub unless a folder ``owner`` lies here;
        ``hf://owner/name`` always is one (see :mod:`gqn_rl.hub`).

        Raises:
            UserError: there is none (the message lists the shipped ones), or its files are corrupt.
        """
        weights_path, card_path = _locate(str(name))
        card = read_json(card_path)
        _check_card(card, card_path)
        try:
            tensors = safetensors.torch.load_file(weights_path)
        except (safetensors.SafetensorError, OSError) as error:
            raise UserError(f"{weights_path} is corrupt ({error}); restore or pretrain it again") from None
        if card.get(CONTENT) not in (None, _content(tensors)):
            raise UserError(f"{weights_path} is not the file its card describes (its content differs); restore it")
        try:
            with torch.random.fork_rng([]):  # weights are drawn, and thrown away: not at the expense of who loads them
                gqn = GQN(GQNConfig.from_mapping(card["model"], source=str(card_path)))
            mean, projection, moving = tensors.pop(_MEAN), tensors.pop(_PROJECTION), tensors.pop(_MOVING, None)
            gqn.load_state_dict(tensors)
            encoder = cls(gqn, mean, projection, card, moving)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{weights_path} does not fit its card: {' '.join(str(error).split()[:40])}") from None
        if card.get("fingerprint") not in (None, encoder.fingerprint):
            raise UserError(f"{weights_path} is not the file its card describes (fingerprint differs); restore it")
        return encoder

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``path``.safetensors and ``path``.json (``path`` without a suffix), each atomically.

        Raises ``ValueError`` for one :meth:`without_generator`, which could not be loaded.
        """
        if isinstance(self.gqn.generator, nn.Identity):
            raise ValueError("this encoder has no generator; save the one that it was made from")
        tensors = {name: tensor.contiguous() for name, tensor in self.gqn.state_dict().items()}
        tensors |= {_MEAN: self.mean.contiguous(), _PROJECTION: self.projection.contiguous(), _MOVING: self.moving}
        write_bytes(f"{path}.safetensors", safetensors.torch.save(tensors))
        facts = {"model": self.gqn.config.to_dict(), "fingerprint": self.fingerprint, CONTENT: _content(tensors)}
        write_json(Path(f"{path}.json"), {**self.card, **facts})

    def push_to_hub(self, repository: str, **options: Any) -> str:
        """Upload to ``owner/name`` or ``owner/name@branch``; see :func:`gqn_rl.hub.push_to_hub` for ``options``."""
        return push_to_hub(self, repository, **options)


def _principal(vectors: Tensor, size: int) -> Tensor:
    """The first ``size`` principal directions (C, size) of ``vectors`` (N, C), divided by the components' mean size."""
    _, singular, directions = torch.linalg.svd(vectors - vectors.mean(0), full_matrices=False)
    # A direction is as good as its opposite: make the largest entry positive, on every machine.
    largest = directions.gather(1, directions.abs().argmax(1, keepdim=True))
    rms = singular[:size].square().mean().div(len(vectors)).sqrt().clamp_min(1e-6)
    return (directions * largest.sign())[:size].T / rms


def _check_card(card: Any, source: str | Path) -> None:
    """Raise :class:`UserError` unless ``card``, read from ``source``, has what an encoder is used by."""
    missing = [key for key in ("camera", "model") if not isinstance(card, dict) or key not in card]
    if missing:
        raise UserError(f"{source} is no encoder's card: it has no {' and no '.join(missing)}")
    for key in ("camera", "model", "data", "compute"):
        if not isinstance(card.get(key, {}), dict):
            raise UserError(f"{source} is no encoder's card: {key!r} is {card[key]!r}, must be an object")
    try:
        check_camera(card["camera"])
    except UserError as error:
        raise UserError(f"{source} is no encoder's card: {error}") from None
    recipe = card.get("data", {"env": ""})
    if not isinstance(recipe.get("env"), str) or not isinstance(recipe.get("env_kwargs", {}), dict):
        raise UserError(f"{source} is no encoder's card: 'data' names no environment (env, env_kwargs)")


def _content(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    hash_tensors(digest, tensors)
    return digest.hexdigest()


def hash_tensors(digest: hashlib._Hash, tensors: Mapping[str, Tensor]) -> None:
    """Add names, types, shapes and bytes of ``tensors`` to ``digest``, in the order of their names."""
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def shipped_encoders() -> list[str]:
    """Names of the encoders in this package."""
    return sorted(path.stem for path in SHIPPED.glob("*.safetensors"))


def load_encoder(spec: str) -> SceneEncoder:
    """What :meth:`GQNEncoder.from_pretrained` finds, or any class with ``encode`` and ``size`` by ``module:Class``.

    ``untrained:`` before what the former would find gives the same encoder at initialisation.

    Raises:
        UserError: it does not exist, cannot be imported, or is no scene encoder.
    """
    if spec.startswith(UNTRAINED):
        return GQNEncoder.untrained(spec.removeprefix(UNTRAINED))
    if ":" not in spec or spec.startswith(SCHEME) or Path(spec).exists():
        return GQNEncoder.from_pretrained(spec)
    module_name, _, class_name = spec.partition(":")
    try:
        factory = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, ValueError) as error:  # ValueError: an empty module name
        raise UserError(f"encoder {spec!r} cannot be imported: {error}; it is named module:Class") from None
    except Exception as error:  # a user's module may raise anything
        raise UserError(f"encoder {spec!r} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        encoder = factory()
    except Exception as error:  # a user's code may raise anything
        raise UserError(f"encoder {spec!r} cannot be made: {type(error).__name__}: {error}") from error
    if not isinstance(encoder, SceneEncoder) or not callable(encoder.encode):
        raise UserError(f"encoder {spec!r} needs a method `encode` and an attribute `size`")
    if not is_whole(encoder.size) or encoder.size < 1:
        raise UserError(f"encoder {spec!r}: size is the length of its vector, a positive integer; got {encoder.size!r}")
    return encoder


def _locate(name: str) -> tuple[Path, Path]:
    path = Path(name)
    if (reference := find_reference(name)) is not None:
        stem = download(reference) / "encoder"
    elif path.is_dir():
        stem = path / "encoder"
    elif path.suffix == ".safetensors":
        stem = path.with_suffix("")
    else:
        stem = SHIPPED / name
    weights, card = Path(f"{stem}.safetensors"), Path(f"{stem}.json")
    for file in (weights, card):
        if not file.is_file():
            shipped = ", ".join(shipped_encoders()) or "none"
            raise UserError(
                f"no encoder {name!r} ({file} is missing); give a shipped name ({shipped}), "
                "a folder that `pretrain` made, a .safetensors file, owner/name on the Hugging Face Hub or module:Class"
            )
    return weights, card
