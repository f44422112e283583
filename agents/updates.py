"""What makes Stable-Baselines3's updates faster on a CPU and changes nothing of what they do.

``benchmarks/updates.py`` says what each is worth.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
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


SPEED_UPS: Final = (lay_out_channels_last, fuse_optimizers, spare_critic_gradients)
