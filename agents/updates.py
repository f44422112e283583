"""What makes Stable-Baselines3's updates faster on a CPU and changes nothing of what they do.

``benchmarks/updates.py`` says what each is worth.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import torch
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, NatureCNN
from torch import Tensor, nn


def speed_up(model: BaseAlgorithm) -> None:
    """Do all of this module to ``model``; to be called once it is built or loaded."""
    for step in SPEED_UPS:
        step(model)


def lay_out_channels_last(model: BaseAlgorithm) -> None:
    """Let convolutions keep a pixel's channels side by side in memory, as they are worked on."""
    model.policy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def fuse_optimizers(model: BaseAlgorithm) -> None:
    """Let Adam update a tensor in one pass over memory instead of a dozen; equal but for rounding."""
    policy = model.policy
    for part in (policy, getattr(policy, "actor", None), getattr(policy, "critic", None)):
        optimizer = getattr(part, "optimizer", None)
        if type(optimizer) is torch.optim.Adam:
            # Not by the policy's optimizer_kwargs, beside which SB3's on-policy algorithms drop their own epsilon.
            for group in (optimizer.defaults, *optimizer.param_groups):
                group["fused"], group["foreach"] = True, False


def spare_critic_gradients(model: BaseAlgorithm) -> None:
    """Do not work out how SAC's critics would have to change for the actor's sake: nobody asks; equal bit for bit.

    SAC's actor is trained through the critics, by the gradient of their values by the action. SB3 lets PyTorch find
    the gradient by the critics' weights as well, features extractor included, and discards it before the critics' own
    update. Of other algorithms it is not known what they do with it.
    """
    if type(model) is not SAC:
        return
    spared: list[nn.Parameter] = []

    def spare(critic: nn.Module, arguments: tuple[Any, Tensor]) -> None:
        _, actions = arguments
        if actions.requires_grad:
            spared.extend(weight for weight in critic.parameters() if weight.requires_grad)
        for weight in spared:
            weight.requires_grad_(False)

    def restore(*_: Any) -> None:
        for weight in spared:
            weight.requires_grad_(True)
        spared.clear()

    model.critic.register_forward_pre_hook(spare)
    model.critic.register_forward_hook(restore, always_call=True)


def prepare_pictures_once(model: BaseAlgorithm) -> None:
    """Turn the pictures of a batch from bytes into numbers once an update, not once a network; the same numbers.

    SAC's actor, critics and target critics read the same two batches five times an update, and SB3 prepares them each
    time, a quarter of the update for its convolutions on two views of 64 x 64. Of batches to learn from, the last two
    are kept. A features extractor of somebody else might write into what it is given, and is left alone.
    """
    parts = [getattr(model.policy, name, None) for name in ("actor", "actor_target", "critic", "critic_target")]
    readers = [part for part in parts if isinstance(part, BaseModel) and _reads_pictures(part)]
    if parts[0] not in readers:
        return
    actor, prepared = readers[0], deque[tuple[Any, Any]](maxlen=2)

    def prepare(part: BaseModel, observations: Any) -> Any:
        if not actor.training:  # to act; SB3 learns in training mode alone
            return preprocess_obs(observations, part.observation_space, part.normalize_images)
        for before, result in prepared:
            if before is observations:
                return result
        result = preprocess_obs(_channels_last(observations), part.observation_space, part.normalize_images)
        prepared.append((observations, result))
        return result

    def extract_features(part: BaseModel, obs: Any, features_extractor: BaseFeaturesExtractor) -> Tensor:
        return features_extractor(prepare(part, obs))

    for part in readers:
        part.extract_features = partial(extract_features, part)  # type: ignore[method-assign]


def _reads_pictures(part: BaseModel) -> bool:
    """Whether ``part`` extracts features from pictures just as SB3 does."""
    space = part.observation_space
    spaces_read = space.spaces.values() if isinstance(space, spaces.Dict) else [space]
    return (
        type(part).extract_features is BaseModel.extract_features
        and type(part.features_extractor) in (NatureCNN, CombinedExtractor)
        and any(is_image_space(read) for read in spaces_read)
    )


def _channels_last(observations: Any) -> Any:
    """The same observations; bytes are cheaper to lay out anew than the numbers that they become."""
    if isinstance(observations, Mapping):
        return {key: _channels_last(value) for key, value in observations.items()}
    return observations.contiguous(memory_format=torch.channels_last) if observations.ndim == 4 else observations


SPEED_UPS: Final = (lay_out_channels_last, fuse_optimizers, spare_critic_gradients, prepare_pictures_once)
