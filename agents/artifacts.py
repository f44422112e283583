"""What a run leaves for the eye: its learning curve, and a video of what the policy does and sees."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Final

import gymnasium as gym
import imageio.v3 as iio
import numpy as np
from imageio.v2 import get_writer
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from gqn_rl.agents.build import make_env
from gqn_rl.agents.evaluation import Policy
from gqn_rl.agents.runs import Row
from gqn_rl.agents.seeding import HELD_OUT, own_randomness
from gqn_rl.files import atomic_path

#: Pixels: side of the large picture, height of a line of text, and the margin between panels.
PICTURE: Final = 320
LINE: Final = 20
MARGIN: Final = 8
_INK, _PAPER = (30, 30, 30), (255, 255, 255)
#: Frames a second for an environment whose metadata do not say.
DEFAULT_FPS: Final = 10
#: Seconds that the last frame of an episode stays.
PAUSE: Final = 0.5


def draw_learning_curve(path: Path, rows: Sequence[Row], random_policy: Mapping[str, Any], title: str) -> None:
    """Write a PNG of score, and of success where there is any, against environment steps.

    ``random_policy`` holds the ``score`` and ``success`` of uniformly random actions: the dashed lines.
    """
    has_success = any(not math.isnan(row.success) for row in rows)
    figure = Figure(figsize=(10 if has_success else 5.5, 4), layout="constrained")
    axes = list(figure.subplots(1, 2 if has_success else 1, squeeze=False)[0])
    steps = [row.step for row in rows]
    curves = [("score", "mean return of an episode", [row.score for row in rows])]
    if has_success:
        curves.insert(0, ("success", "episodes that end in success", [row.success for row in rows]))
    for axis, (name, label, values) in zip(axes, curves, strict=True):
        axis.plot(steps, values, color="tab:blue", marker="o", markersize=3, label="policy")
        if random_policy.get(name) is not None:
            axis.axhline(random_policy[name], color="tab:gray", linestyle="--", label="random actions")
        axis.set_xlabel("environment steps")
        axis.set_ylabel(label)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    if has_success:
        axes[0].set_ylim(-0.03, 1.03)
        axes[0].yaxis.set_major_formatter(PercentFormatter(1.0))
    figure.suptitle(title)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


@contextmanager
def film_episodes(
    env_id: str,
    env_kwargs: Mapping[str, Any],
    policy: Policy,
    see: Callable[[VecEnv], VecEnv],
    episodes: int,
    first_seed: int = 0,
    check_stop: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Iterator[NDArray[np.uint8]], int]]:
    """Frames (H, W, 3) uint8 of ``episodes`` deterministic episodes, as they are played, and how many to show a second.

    Left is the environment's own picture; right, where it shows views, the views of the moment, enlarged without
    smoothing. ``see`` wraps the environment as it was for training. The episodes are the first ones of
    :func:`gqn_rl.agents.evaluation.evaluate`. No frames come from an environment that neither draws itself nor shows
    views.
    """
    camera = _Camera(make_env(env_id, env_kwargs, render_mode="rgb_array"))
    venv = see(DummyVecEnv([lambda: camera]))
    fps = round(camera.metadata.get("render_fps") or DEFAULT_FPS)

    def frames() -> Iterator[NDArray[np.uint8]]:
        for episode in range(episodes):
            camera.title = f"episode {episode + 1} of {episodes}"
            venv.seed(HELD_OUT + first_seed + episode)
            observations, starts, done = venv.reset(), np.ones(1, bool), False
            while not done and camera.frame is not None:
                check_stop()
                yield camera.frame
                observations, _, starts, _ = venv.step(policy(observations, starts))
                done = bool(starts[0])
            if camera.last is not None:
                yield from [camera.last] * (1 + round(PAUSE * fps))

    try:
        with own_randomness(HELD_OUT + first_seed):
            yield frames(), fps
    finally:
        venv.close()


class _Camera(gym.Wrapper[Any, Any, Any, Any]):
    """Takes a frame of every moment, under what is known of it."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.title = ""
        #: Of this moment, and of the last moment of the episode before: a VecEnv resets by itself.
        self.frame: NDArray[np.uint8] | None = None
        self.last: NDArray[np.uint8] | None = None

    def reset(self, **options: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**options)
        self._step, self._return = 0, 0.0
        self.last = self.frame
        self._take(observation, info)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._step, self._return = self._step + 1, self._return + float(reward)
        self._take(observation, info)
        return observation, reward, terminated, truncated, info

    def _take(self, observation: Any, info: Mapping[str, Any]) -> None:
        success = "   success" if info.get("is_success") else ""
        caption = f"{self.title}   step {self._step}   return {self._return:.2f}{success}"
        self.frame = compose_frame(self.env.render(), views_in(observation), caption)


def compose_frame(picture: Any, views: NDArray[np.uint8] | None, caption: str) -> NDArray[np.uint8] | None:
    """One frame: ``picture`` (H, W, 3) or None beside ``views`` (K, h, w, 3) or None, above a caption."""
    panels = []
    if isinstance(picture, np.ndarray) and picture.ndim == 3:
        height = PICTURE
        width = round(picture.shape[1] * height / picture.shape[0])
        panels.append(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
    if views is not None:
        panels.append(_view_grid(views))
    if not panels:
        return None
    width = sum(panel.width for panel in panels) + MARGIN * (len(panels) - 1)
    canvas = Image.new("RGB", (width + width % 2, PICTURE + LINE), _PAPER)  # the video codec wants even sides
    left = 0
    for panel in panels:
        canvas.paste(panel, (left, 0))
        left += panel.width + MARGIN
    ImageDraw.Draw(canvas).text((4, PICTURE + 3), caption, _INK, ImageFont.load_default(12))
    return np.asarray(canvas)


def write_video(path: Path, frames: Iterable[NDArray[np.uint8]], fps: int) -> Path | None:
    """Write ``path`` with suffix ``.mp4``, or ``.gif`` where imageio-ffmpeg is missing; returns what was written.

    An ``.mp4`` is written frame by frame, so that hours of video need no more memory than a frame. Nothing is written,
    and None returned, where there are no frames.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        return None
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        path = path.with_suffix(".mp4")
        options: dict[str, Any] = {"codec": "libx264", "macro_block_size": 2, "ffmpeg_log_level": "error"}
        with atomic_path(path) as temporary:
            writer: Any = get_writer(temporary, format="FFMPEG", mode="I", fps=fps, **options)
            with writer:
                for frame in chain([first], frames):
                    writer.append_data(frame)
    else:
        path = path.with_suffix(".gif")
        with atomic_path(path) as temporary:
            stack = np.stack([first, *frames])
            iio.imwrite(temporary, stack, plugin="pillow", duration=1000 / fps, loop=0)
    return path


def views_in(observation: Any) -> NDArray[np.uint8] | None:
    """The images in an observation, (K, h, w, 3): those of an encoder, or those of one stacked by channel."""
    if isinstance(observation, dict):
        return observation.get("images")
    image = np.asarray(observation)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] % 3:
        return None
    height, width, channels = image.shape
    return image.reshape(height, width, channels // 3, 3).transpose(2, 0, 1, 3)


def _view_grid(views: NDArray[np.uint8]) -> Image.Image:
    """The K views under their labels, in a grid as high as the picture."""
    rows = math.ceil(math.sqrt(len(views)))
    columns = math.ceil(len(views) / rows)
    cell = PICTURE // rows
    scale = (cell - LINE) / max(views.shape[1:3])
    scale = math.floor(scale) if scale >= 1 else scale
    height, width = round(views.shape[1] * scale), round(views.shape[2] * scale)
    grid = Image.new("RGB", (columns * max(cell, width), PICTURE), _PAPER)
    draw, font = ImageDraw.Draw(grid), ImageFont.load_default(12)
    for index, view in enumerate(views):
        left, top = index // rows * max(cell, width), index % rows * cell
        draw.text((left, top + 3), f"what it sees: camera {index + 1}", _INK, font)
        grid.paste(Image.fromarray(view).resize((width, height), Image.Resampling.NEAREST), (left, top + LINE))
    return grid
