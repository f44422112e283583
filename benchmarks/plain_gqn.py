"""The GQN of Eslami et al. (2018, supplement, sections 2 and 3), plainly transcribed: what ours is timed against.

Nothing here is clever: NCHW tensors in float32, a canvas of the image's size, and every core concatenates all that it
sees at every step. ``tests/test_plain_gqn.py`` maps its weights onto :meth:`gqn_rl.gqn.GQNConfig.paper`, and says
where the two compute the same numbers.

It does what the public implementations do (iShohei220/torch-gqn and wohlert/generative-query-network-pytorch in
PyTorch, ogroth/tf-gqn in TensorFlow). Where they differ it takes the cheaper way, so that a ratio against it is not
flattering:

- one convolution makes the four gates (torch-gqn and wohlert: four convolutions);
- v and a 1x1 r are tiled over the cores' grid (wohlert, tf-gqn), once; torch-gqn, following the paper's figure, learns
  a 16x16 transposed convolution for each in each core, 16.8 million weights for r, and runs it at every step;
- x is shrunk once, to 3 channels (wohlert), and not anew at every step (torch-gqn);
- the inference core sees the canvas (torch-gqn, tf-gqn; wohlert leaves it out, the paper does not), through one strided
  convolution for all steps, shared cores or not.

The scale heads are read as log standard deviations, and images are not squashed.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

Kind = Literal["pyramid", "tower", "pool"]
State = tuple[Tensor, Tensor]  # hidden, cell

SIDE = 64  #: pixels of an image's side, which the pyramid's last kernel and the pool's mean are made for
SCALE = 4  #: pixels to a cell of the cores' grid
V = 7  #: length of a viewpoint


def viewpoint(poses: Tensor) -> Tensor:
    """The paper's v (..., 7) of ``poses`` (..., 5; x, y, z, yaw, pitch): x, y, z, cosine and sine of either angle."""
    position, yaw, pitch = poses[..., :3], poses[..., 3:4], poses[..., 4:5]
    return torch.cat([position, yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin()], dim=-1)


def tile(vectors: Tensor, height: int, width: int) -> Tensor:
    """(N, C) or (N, C, 1, 1) to (N, C, height, width)."""
    return vectors.view(len(vectors), -1, 1, 1).repeat(1, 1, height, width)


class Pyramid(nn.Module):
    """Image (N, 3, 64, 64) and viewpoint (N, 7) to (N, channels, 1, 1)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3 + V, 32, 2, stride=2)
        self.conv2 = nn.Conv2d(32, 64, 2, stride=2)
        self.conv3 = nn.Conv2d(64, 128, 2, stride=2)
        self.conv4 = nn.Conv2d(128, channels, SIDE // 8)

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        x = torch.cat([x, tile(v, *x.shape[-2:])], dim=1)
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            x = F.relu(conv(x))
        return x


class Tower(nn.Module):
    """Image (N, 3, 64, 64) and viewpoint (N, 7) to (N, channels, 16, 16), or with ``pool`` to (N, channels, 1, 1)."""

    def __init__(self, channels: int, pool: bool) -> None:
        super().__init__()
        self.pool = pool
        self.conv1 = nn.Conv2d(3, channels, 2, stride=2)
        self.conv2 = nn.Conv2d(channels, channels, 2, stride=2)
        self.conv3 = nn.Conv2d(channels, channels // 2, 3, padding=1)
        self.conv4 = nn.Conv2d(channels // 2, channels, 2, stride=2)
        self.conv5 = nn.Conv2d(channels + V, channels, 3, padding=1)
        self.conv6 = nn.Conv2d(channels + V, channels // 2, 3, padding=1)
        self.conv7 = nn.Conv2d(channels // 2, channels, 3, padding=1)
        self.conv8 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, v: Tensor) -> Tensor:
        x = F.relu(self.conv1(x))
        skip = F.relu(self.conv2(x))
        x = F.relu(self.conv3(x))
        x = F.relu(self.conv4(x)) + skip
        x = torch.cat([x, tile(v, *x.shape[-2:])], dim=1)
        skip = F.relu(self.conv5(x))
        x = F.relu(self.conv6(x))
        x = F.relu(self.conv7(x)) + skip
        x = F.relu(self.conv8(x))
        return F.avg_pool2d(x, SIDE // SCALE) if self.pool else x


class ConvLSTMCell(nn.Module):
    """A convolutional LSTM with 5x5 kernels."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.gates = nn.Conv2d(hidden + inputs, 4 * hidden, 5, padding=2)

    def forward(self, inputs: Tensor, state: State) -> State:
        hidden, cell = state
        forget, write, output, value = self.gates(torch.cat([hidden, inputs], dim=1)).chunk(4, dim=1)
        cell = torch.sigmoid(forget) * cell + torch.sigmoid(write) * torch.tanh(value)
        return torch.sigmoid(output) * torch.tanh(cell), cell


class InferenceCore(nn.Module):
    """Sees the image and the canvas (both shrunk), the camera, the scene and the generation core's hidden state."""

    def __init__(self, representation: int, hidden: int) -> None:
        super().__init__()
        self.core = ConvLSTMCell(3 + V + representation + hidden + hidden, hidden)

    def forward(self, x: Tensor, v: Tensor, r: Tensor, h_g: Tensor, u: Tensor, state: State) -> State:
        return cast(State, self.core(torch.cat([x, v, r, h_g, u], dim=1), state))


class GenerationCore(nn.Module):
    """Sees the camera, the scene and the latent, and adds to the canvas (N, hidden, H, W)."""

    def __init__(self, representation: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.core = ConvLSTMCell(V + representation + latent, hidden)
        self.upsample_h = nn.ConvTranspose2d(hidden, hidden, SCALE, stride=SCALE, bias=False)

    def forward(self, v: Tensor, r: Tensor, z: Tensor, state: State, u: Tensor) -> tuple[State, Tensor]:
        state = self.core(torch.cat([v, r, z], dim=1), state)
        return state, u + self.upsample_h(state[0])


class Generator(nn.Module):
    """Convolutional DRAW of ``steps`` steps; ``shared`` cores or one pair for each step."""

    def __init__(self, representation: int, hidden: int, steps: int, shared: bool, latent: int) -> None:
        super().__init__()
        self.hidden, self.steps = hidden, steps
        cores = 1 if shared else steps
        self.inference_cores = nn.ModuleList(InferenceCore(representation, hidden) for _ in range(cores))
        self.generation_cores = nn.ModuleList(GenerationCore(representation, hidden, latent) for _ in range(cores))
        self.downsample_x = nn.Conv2d(3, 3, SCALE, stride=SCALE, bias=False)
        self.downsample_u = nn.Conv2d(hidden, hidden, SCALE, stride=SCALE, bias=False)
        self.eta_pi = nn.Conv2d(hidden, 2 * latent, 5, padding=2)
        self.eta_e = nn.Conv2d(hidden, 2 * latent, 5, padding=2)
        self.eta_g = nn.Conv2d(hidden, 3, 1)

    def forward(self, x: Tensor, v: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct ``x`` (N, 3, H, W), seen from ``v`` (N, 7), given ``r``: means (N, 3, H, W), KL (N,) in nats."""
        n, _, height, width = x.shape
        h, w = height // SCALE, width // SCALE
        v = tile(v, h, w)
        if r.shape[-2:] == (1, 1):
            r = tile(r, h, w)
        shrunk = self.downsample_x(x)
        state_e = (x.new_zeros(n, self.hidden, h, w), x.new_zeros(n, self.hidden, h, w))
        state_g = (x.new_zeros(n, self.hidden, h, w), x.new_zeros(n, self.hidden, h, w))
        u = x.new_zeros(n, self.hidden, height, width)
        kl = x.new_zeros(n)
        for step in range(self.steps):
            own = step % len(self.generation_cores)
            prior = distribution(self.eta_pi(state_g[0]))
            state_e = self.inference_cores[own](shrunk, v, r, state_g[0], self.downsample_u(u), state_e)
            posterior = distribution(self.eta_e(state_e[0]))
            z = posterior.rsample()
            state_g, u = self.generation_cores[own](v, r, z, state_g, u)
            kl = kl + kl_divergence(posterior, prior).sum(dim=(1, 2, 3))
        return self.eta_g(u), kl


def distribution(parameters: Tensor) -> Normal:
    """Means and log standard deviations (N, 2 C, h, w) to normal distributions over (N, C, h, w)."""
    mean, log_std = parameters.chunk(2, dim=1)
    return Normal(mean, log_std.exp())


class PlainGQN(nn.Module):
    """The whole network; the defaults are the paper's sizes.

    Args:
        kind: of the representation network.
        representation: channels of r.
        hidden: channels of both cores' states and of the canvas.
        steps: latent steps.
        shared: one pair of cores for all steps, or one for each.
        latent: channels of z.
    """

    def __init__(
        self,
        kind: Kind = "tower",
        representation: int = 256,
        hidden: int = 128,
        steps: int = 12,
        shared: bool = True,
        latent: int = 3,
    ) -> None:
        super().__init__()
        self.representation = Pyramid(representation) if kind == "pyramid" else Tower(representation, kind == "pool")
        self.generator = Generator(representation, hidden, steps, shared, latent)

    def forward(self, x: Tensor, v: Tensor, x_query: Tensor, v_query: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct a query view of each scene.

        Args:
            x: context images (B, K, 3, 64, 64) in [0, 1].
            v: their viewpoints (B, K, 7).
            x_query: (B, 3, 64, 64).
            v_query: (B, 7).

        Returns:
            Means (B, 3, 64, 64), and the KL divergence (B,) in nats.
        """
        r = self.representation(x.flatten(0, 1), v.flatten(0, 1)).unflatten(0, x.shape[:2]).sum(dim=1)
        return cast("tuple[Tensor, Tensor]", self.generator(x_query, v_query, r))


def elbo(mean: Tensor, kl: Tensor, x_query: Tensor, sigma: float) -> Tensor:
    """Evidence lower bound (B,) in nats; ``sigma`` is the pixels' standard deviation."""
    return Normal(mean, sigma).log_prob(x_query).sum(dim=(1, 2, 3)) - kl
