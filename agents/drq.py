"""Encoders that the critic trains, with shared features, random shifts and n-step returns: DrQ-v2 around SB3's SAC.

DrQ-v2 (Yarats et al., "Mastering Visual Continuous Control", 2021, arXiv:2107.09645) in what concerns sight: one
convolutional encoder, trained by the critic's loss only (section 3.1, from SAC-AE and DrQ), whose features actor and
critic each read through a trunk of their own; random shifts of the replayed pictures; n-step returns. The algorithm
itself stays Stable-Baselines3's SAC, unmodified, so that arms of a comparison differ in nothing else.

SB3 calls actor and critics with the same replayed observations five times an update. A replayed observation therefore
remembers its features: an update encodes each once, as in DrQ-v2's own code, where also the actor's loss uses the
features from before the critic's step, and where the target critic reads the features of the one encoder there is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import DictReplayBuffer
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, Schedule
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import Tensor, nn

from gqn_rl.agents.vec_pixels import PIXELS_KEY
from gqn_rl.agents.vec_scene import FRAME_KEY, MovingPoints
from gqn_rl.encoder import GQNEncoder
from gqn_rl.types import POSE_SIZE

#: Channels of every convolution, and how many features the trunk leaves of them: DrQ-v2, table of hyper-parameters.
CHANNELS: Final = 32
TRUNK_SIZE: Final = 50
#: The 3x3 convolutions' strides. DrQ-v2 has 2, 1, 1, 1 for 84 x 84 pixels; with 2, 2, 1, 1 two views of 64 x 64 cost
#: 6.4 instead of 21.9 million multiplications, and leave 11 x 11 places instead of 25 x 25.
STRIDES: Final = (2, 2, 1, 1)

TensorDict = dict[str, Tensor]


class Replayed(dict[str, Tensor]):
    """Observations from the replay buffer, which remember their features for the one update that they are used in."""

    features: Tensor | None = None


class ViewReplayBuffer(DictReplayBuffer):
    """A replay buffer of pictures: n-step returns, and random shifts of what is sampled.

    Returns are those of SB3's ``NStepReplayBuffer``, which has none for ``Dict`` observations. Shifts are DrQ-v2's
    (section 3.1): pictures are padded by repeating the border, and cropped back at a random whole pixel. The views of
    one observation are shifted independently, since each camera's picture is a picture of its own and a policy should
    not rely on how two cameras' errors agree; the stacked pictures of one view move together, as in DrQ-v2, since the
    motion between them is information. Shifts are drawn from PyTorch's generator.

    Args:
        n_steps: rewards in a return, at least 1; DrQ-v2 takes 3.
        gamma: the algorithm's discount factor.
        shift: the largest shift in pixels, 0 for none; DrQ-v2 takes 4.
        others: those of ``DictReplayBuffer``.
    """

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Dict,
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
        n_steps: int = 1,
        gamma: float = 0.99,
        shift: int = 0,
    ) -> None:
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        if shift < 0:
            raise ValueError(f"shift must be 0 pixels or more, got {shift}")
        if not isinstance(observation_space, spaces.Dict) or not {PIXELS_KEY, "poses"} <= set(observation_space.spaces):
            raise ValueError(f"{type(self).__name__} needs observations of VecPixels, found {observation_space}")
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            n_envs,
            optimize_memory_usage,
            handle_timeout_termination,
        )
        self.n_steps, self.gamma, self.shift = n_steps, gamma, shift
        self._views = (observation_space["poses"].shape or ())[0]

    def _get_samples(  # type: ignore[override]  # as SB3's own
        self, batch_inds: NDArray[Any], env: VecNormalize | None = None
    ) -> DictReplayBufferSamples:
        env_indices = np.random.randint(0, self.n_envs, size=len(batch_inds))  # noqa: NPY002 - as SB3 draws them
        steps = (batch_inds[:, None] + np.arange(self.n_steps)) % self.buffer_size  # (batch, n_steps)
        columns = env_indices[:, None]
        # After the newest transition there is none, or one of another episode.
        ends = (self.dones[steps, columns] > 0) | (steps == (self.pos - 1) % self.buffer_size)
        ends[:, -1] = True
        length = ends.argmax(axis=1)  # rewards after the first
        used = np.arange(self.n_steps) <= length[:, None]
        discounts = self.gamma ** np.arange(self.n_steps, dtype=np.float32)
        rewards = self._normalize_reward(self.rewards[steps, columns], env)
        last = (batch_inds + length) % self.buffer_size
        dones = self.dones[last, env_indices] * (1 - self.timeouts[last, env_indices])
        return DictReplayBufferSamples(
            observations=self._observations(self.observations, batch_inds, env_indices, env),
            actions=self.to_torch(self.actions[batch_inds, env_indices]),
            next_observations=self._observations(self.next_observations, last, env_indices, env),
            dones=self.to_torch(dones[:, None]),
            rewards=self.to_torch((rewards * discounts * used).sum(axis=1, keepdims=True)),
            discounts=self.to_torch(self.gamma ** (length + 1).astype(np.float32)[:, None]),
        )

    def _observations(
        self, stored: Mapping[str, NDArray[Any]], rows: NDArray[Any], columns: NDArray[Any], env: VecNormalize | None
    ) -> Replayed:
        parts = self._normalize_obs({key: array[rows, columns] for key, array in stored.items()}, env)
        assert isinstance(parts, dict)
        if self.shift:
            pixels = parts[PIXELS_KEY]
            views = pixels.reshape(len(pixels) * self._views, -1, *pixels.shape[-2:])
            moves = torch.randint(2 * self.shift + 1, (len(views), 2)).numpy() - self.shift
            parts[PIXELS_KEY] = shifted(views, moves).reshape(pixels.shape)
        return Replayed({key: self.to_torch(array, copy=False) for key, array in parts.items()})


def shifted(images: NDArray[np.uint8], moves: NDArray[Any]) -> NDArray[np.uint8]:
    """``images`` (N, C, H, W), each moved by its own ``moves`` (N, 2) of whole pixels: down, and to the right.

    What moves out of the picture is lost; what moves in repeats the border.
    """
    height, width = images.shape[-2:]
    pad = int(np.abs(moves).max(initial=0))
    padded = np.pad(images, ((0, 0), (0, 0), (pad, pad), (pad, pad)), mode="edge")
    out = np.empty_like(images)
    for index, (row, column) in enumerate(pad - moves):
        out[index] = padded[index, :, row : row + height, column : column + width]
    return out


class ConvolutionalEncoder(nn.Module):
    """DrQ-v2's network: 3x3 convolutions of 32 channels with ReLU, flattened to ``size`` features.

    All pictures go in together, stacked by channel. Weights are orthogonal, as in DrQ-v2. There is a convolution for
    each of ``strides``.
    """

    def __init__(self, observation_space: spaces.Dict, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        channels, height, width = observation_space[PIXELS_KEY].shape or ()
        layers: list[nn.Module] = []
        for stride in strides:
            layers += [nn.Conv2d(channels, CHANNELS, 3, stride), nn.ReLU(inplace=True)]
            channels, height, width = CHANNELS, (height - 3) // stride + 1, (width - 3) // stride + 1
            if min(height, width) < 1:
                raise ValueError(f"images of {observation_space[PIXELS_KEY].shape} are too small for {strides=}")
        self.convolutions = nn.Sequential(*layers)
        self.size = channels * height * width
        _orthogonal(self, nn.init.calculate_gain("relu"))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # faster on CPU

    def forward(self, observations: TensorDict) -> Tensor:
        """(B, C, H, W) uint8 to (B, size)."""
        pixels = observations[PIXELS_KEY].to(torch.float32, memory_format=torch.channels_last)
        return self.convolutions(pixels.div_(255).sub_(0.5)).flatten(1)


class SceneNetwork(nn.Module):
    """A pretrained encoder, to be trained on: gives what :class:`gqn_rl.agents.vec_scene.SceneVector` gives.

    That is the scene vector, with points as seen from where the robot is if the observation has a ``frame``. It has
    weights of its own: ``encoder`` stays as it is.
    """

    def __init__(self, encoder: GQNEncoder, observation_space: spaces.Dict) -> None:
        super().__init__()
        views, poses = observation_space["poses"].shape or ()
        if poses != POSE_SIZE:
            raise ValueError("a pretrained encoder sees one moment: set stack to 1")
        self.encoder = encoder.without_generator()
        self.encoder.gqn.representation.requires_grad_(True)
        self._views = views
        self._points = MovingPoints.of(encoder) if FRAME_KEY in observation_space.spaces else None
        self.size = self._points.size if self._points else encoder.size

    def forward(self, observations: TensorDict) -> Tensor:
        """(B, 3K, H, W) uint8 and (B, K, 5) to (B, size)."""
        images = observations[PIXELS_KEY].unflatten(1, (self._views, 3)).permute(0, 1, 3, 4, 2)
        vectors = self.encoder(images, observations["poses"])
        return self._points.from_frame(vectors, observations[FRAME_KEY].float()) if self._points else vectors


class Trunk(BaseFeaturesExtractor):
    """What an actor or a critic reads: the encoder's features, and all else than the views' pictures, flattened.

    All else is read as by SB3's own policies: floats, and a one-hot vector for each ``Discrete`` choice. Features go
    through Linear, LayerNorm and Tanh to ``size`` of them, as in DrQ-v2 (appendix: its actor and critic each have such
    a trunk); with ``size`` None they stay as they are.
    """

    def __init__(self, observation_space: spaces.Dict, features: int, size: int | None) -> None:
        self._others = {key: space for key, space in observation_space.spaces.items() if key != PIXELS_KEY}
        others = sum(map(get_flattened_obs_dim, self._others.values()))
        super().__init__(observation_space, (size or features) + others)
        self.net: nn.Module = nn.Identity()
        if size is not None:
            self.net = nn.Sequential(nn.Linear(features, size), nn.LayerNorm(size), nn.Tanh())
            _orthogonal(self.net, 1.0)

    def forward(self, features: Tensor, observations: TensorDict) -> Tensor:
        """(B, features) and the observations to (B, size + others)."""
        others: list[Any] = [preprocess_obs(observations[key], space) for key, space in self._others.items()]
        return torch.cat([self.net(features), *(part.flatten(1) for part in others)], dim=1)


class _EncodedActor(Actor):
    """An actor that reads features, and sends no gradient to what made them."""

    encode: Callable[[TensorDict], Tensor]

    def extract_features(self, obs: Any, features_extractor: BaseFeaturesExtractor) -> Tensor:
        return features_extractor(self.encode(obs).detach(), obs)


class _EncodedCritic(ContinuousCritic):
    """A critic that trains the encoder the first time it reads an observation's features, and only then."""

    encode: Callable[[TensorDict], Tensor]

    def extract_features(self, obs: Any, features_extractor: BaseFeaturesExtractor) -> Tensor:
        features = self.encode(obs)
        if isinstance(obs, Replayed):
            obs.features = features.detach()  # SAC reads them once more, for the actor's loss
        return features_extractor(features, obs)


class CriticEncoderPolicy(SACPolicy):
    """SAC's policy on observations of :class:`gqn_rl.agents.vec_pixels.VecPixels`, its encoder trained by the critic.

    Args:
        pretrained: the encoder to begin with, a :class:`gqn_rl.encoder.GQNEncoder`, whose vector actor and critic then
            read as it is; None for DrQ-v2's convolutions and trunks.
        encoder_learning_rate_factor: the encoder's learning rate over the others'.
        strides: of DrQ-v2's convolutions, one for each; DrQ-v2 itself has 2, 1, 1, 1.
        others: those of ``SACPolicy``.
    """

    #: What :func:`gqn_rl.agents.build.build_model` gives the algorithm when it is told nothing else.
    replay_buffer_class = ViewReplayBuffer

    encoder: nn.Module

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        pretrained: GQNEncoder | None = None,
        encoder_learning_rate_factor: float = 1.0,
        strides: Sequence[int] = STRIDES,
        **kwargs: Any,
    ) -> None:
        if not isinstance(observation_space, spaces.Dict) or PIXELS_KEY not in observation_space.spaces:
            raise ValueError(f"{type(self).__name__} needs observations of VecPixels, found {observation_space}")
        if kwargs.get("share_features_extractor"):
            raise ValueError(f"{type(self).__name__} shares its encoder, and trains it with the critic's loss, always")
        if encoder_learning_rate_factor <= 0:
            raise ValueError(f"encoder_learning_rate_factor must be positive, got {encoder_learning_rate_factor}")
        if not strides or not all(type(stride) is int and stride >= 1 for stride in strides):
            raise ValueError(f"strides must be integers of at least 1, one for each convolution, got {strides!r}")
        if pretrained is not None and tuple(strides) != STRIDES:
            raise ValueError(f"strides are of DrQ-v2's convolutions, which pretrained replaces, got {strides!r}")
        if pretrained is None:
            self._make_encoder: Callable[[], nn.Module] = partial(ConvolutionalEncoder, observation_space, strides)
        else:
            self._make_encoder = partial(SceneNetwork, pretrained, observation_space)
        self._own_kwargs = {
            "pretrained": pretrained,
            "encoder_learning_rate_factor": encoder_learning_rate_factor,
            "strides": strides,
        }
        self._trunk_size = TRUNK_SIZE if pretrained is None else None
        super().__init__(observation_space, action_space, lr_schedule, features_extractor_class=Trunk, **kwargs)

    def encode(self, observations: TensorDict) -> Tensor:
        """Features (B, size) of observations; replayed ones are encoded once."""
        if not isinstance(observations, Replayed):
            return self.encoder(observations)
        if observations.features is None:
            observations.features = self.encoder(observations)
        return observations.features

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        actor = _EncodedActor(**self._update_features_extractor(self.actor_kwargs, features_extractor))
        actor.encode = self.encode
        return actor.to(self.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> ContinuousCritic:
        critic = _EncodedCritic(**self._update_features_extractor(self.critic_kwargs, features_extractor))
        critic.encode = self.encode
        return critic.to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        self.encoder = self._make_encoder().to(self.device)
        self.features_extractor_kwargs = {"features": self.encoder.size, "size": self._trunk_size}
        super()._build(lr_schedule)
        factor = self._own_kwargs["encoder_learning_rate_factor"]
        trained = [parameter for parameter in self.encoder.parameters() if parameter.requires_grad]
        groups = [{"params": list(self.critic.parameters()), "factor": 1.0}, {"params": trained, "factor": factor}]
        make: Any = self.optimizer_class  # each takes other arguments
        self.critic.optimizer = make(groups, lr=lr_schedule(1), **self.optimizer_kwargs)
        if factor != 1:  # SB3 sets every group's rate to the schedule's before it trains
            self.critic.optimizer.register_step_pre_hook(_apply_factors)
            self.critic.optimizer.register_step_post_hook(_undo_factors)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        for name in ("features_extractor_class", "features_extractor_kwargs"):
            del parameters[name]
        return {**parameters, **self._own_kwargs}


def _apply_factors(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    for group in optimizer.param_groups:
        group["base_lr"] = group["lr"]
        group["lr"] *= group["factor"]


def _undo_factors(optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group.pop("base_lr")


def _orthogonal(module: nn.Module, gain: float) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)
