"""MazeExplore: walk through all of a maze that nobody has seen before, or find the ball in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, Literal, get_args

import mujoco
import numpy as np
from numpy.typing import NDArray

from gqn_rl.cameras import Dome, Fixed
from gqn_rl.envs.base import ObservationMode, check_share, choose
from gqn_rl.envs.maze_layout import SIZES, Cell, Layouts, draw_layout
from gqn_rl.envs.maze_model import CELL, WALL_HEIGHT, MazeModel, cell_at, cell_middle, maze_spec
from gqn_rl.envs.room_model import COMMON_GROUP, DETAILED_GROUP, HIDDEN_GROUP, LENGTH_UNIT
from gqn_rl.envs.walker import RADIUS, ActionMode, Walker, add_walker
from gqn_rl.types import Pose, Quantity

Task = Literal["explore", "goal"]

#: Degrees, vertical. Corridors want a wide view (the published mazes have 90), the map a narrow one, in which walls
#: hide less of the floor.
FOVY: Final = 75.0
#: Metres: how tall the agent is, and how high its eyes are, half of a wall's height; and radians that they look up.
HEIGHT: Final = 0.7
EYE_HEIGHT: Final = 0.5
EYE_PITCH: Final = np.deg2rad(-5.0)

#: The ball to find: its radius and the height of its middle, metres, and its colour. No wall has that colour.
BALL_RADIUS: Final = 0.22
BALL_HEIGHT: Final = 0.35
BALL_COLOR: Final = (0.95, 0.05, 0.1)
#: Metres from the agent's axis to the ball's: it is reached within this. Less than half a cell, so not through a wall.
REACH: Final = 0.4
#: Steps from cell to cell between the agent and the ball at an episode's start.
START_STEPS: Final = 4
#: What reaching the ball adds to the reward.
BONUS: Final = 1.0

#: Directions in which the state tells how far walls are, radians to the left of ahead, and how far it looks, metres.
WHISKERS: Final = np.deg2rad(np.arange(0.0, 360.0, 45.0))
WHISKER_LENGTH: Final = 8.0


class MazeExplore(Walker):
    """Explore a new maze of rooms and corridors, seen through the agent's own eyes.

    A maze is a grid of cells of 1 m, 7 x 7 of them by default, with one or two rooms and corridors that join them;
    walls are 1 m high. Corridors and rooms have textures of their own. There is no ceiling. The agent is a body (an
    upright capsule of 0.2 m radius) that walls stop, and its eyes are 0.5 m above the floor. While it moves, the maze
    stays as it is.

    **Tasks**: ``task="explore"``: enter every cell. ``task="goal"``: find the red ball, which no other task shows.

    **Action**, one decision every 0.2 s: ``actions="continuous"``: ``Box(-1, 1, (2,))``, turning (positive left) as a
    share of 120 degrees/s, and speed ahead (negative: backwards) as a share of 1.5 m/s, by velocity actuators.
    ``actions="discrete"``: ``Discrete(3)``, turn left, turn right, go ahead, each at full speed.

    **Observation** by ``obs_mode``:

    - ``views``: ``images`` (K, H, W, 3) uint8, of K eyes that look 360/K degrees apart, the first of them ahead;
      ``poses`` (K, 5) x, y, z (m), yaw, pitch (rad); ``proprio`` (6,): the agent's position (odometry; the maze's
      middle is the origin) in units of 2 m, cosine and sine of its yaw, and its turning and speed ahead as shares of
      their limits; ``frame`` (4,): the agent's x, y (m), 0 and its yaw (rad);
    - ``pixels``: ``pixels``, the K images stacked by channel, (H, W, 3K) uint8; ``proprio`` as above;
    - ``state`` (18,), a ``Box`` that tells the way: proprio; the direction (2, ahead and left, of length 1) of the next
      cell on the shortest way to what is wanted (the ball, or the nearest cell not yet entered), and the length of that
      way (1, in units of 2 m), zeros if nothing is left; how far the walls are (8, in units of 2 m, at most 8 m), every
      45 degrees from ahead to the left; and the share of cells entered.

    **Reward** of a decision: in ``explore``, 1 for each cell entered for the first time. In ``goal``, the metres by
    which the way to the ball, through the corridors, became shorter, plus 1 when it is reached.

    **Episode**: at most 300 decisions (60 s), then truncated: enough to enter every cell of a maze of size 7, and of
    most of size 9; to explore larger ones, give ``gym.make`` a larger ``max_episode_steps``. It terminates with success
    when every cell has been entered (``explore``), or when the agent's axis is within 0.4 m of the ball's (``goal``).
    ``info`` holds ``coverage``, the share of the open cells that were entered, ``is_success``, and in ``goal`` the
    ``distance`` (m) to the ball through the corridors.

    Every episode has a new maze and a random start: in ``goal`` at least 4 steps from cell to cell off the ball. The
    same seed gives the same episode.

    As a source of scenes it looks from the agent's height and pitch, from anywhere that the agent can be; in a share
    ``map_share`` of its views from ``map_pose``: straight down on the whole maze, x to the right and y upwards; and in
    a share ``dome_share`` over the outer walls, so that two of its views, unlike two of the agent's, show the same.
    The scene's factors are the ``layout``, the ``appearance`` (textures and light), and in ``goal`` the ball's place.
    ``state`` is what stands where, metres: how high the wall is on each cell within the outer walls (0 or 1), and in
    ``goal`` the ball's position (3) after that.

    Args:
        task: ``explore`` or ``goal``.
        layouts: who lays the mazes out: ``builtin``, the same for a seed on every machine, or ``labmaze``, DeepMind
            Lab's (extra ``mazes``). Never chosen by what is installed.
        size: cells along a side, odd, from 7 to 21.
        map_share: probability that ``sample_pose`` is ``map_pose``.
        dome_share: probability that it is in the ``dome``, 55 to 65 degrees above the horizon.
        actions: ``continuous`` or ``discrete``.
        views: how many eyes the agent has, K >= 1.
        obs_mode, shadows, image_size, render_mode, render_size: those of :class:`gqn_rl.envs.base.SceneEnv`.
    """

    fovy = FOVY
    #: Nothing but cameras moves during an episode, so views of its different moments may be encoded together.
    static_scene = True
    small_geoms = (COMMON_GROUP,)
    detailed_geoms = (COMMON_GROUP, DETAILED_GROUP)
    eye_height = EYE_HEIGHT
    eye_pitch = EYE_PITCH
    oracle_size = 6 + 3 + len(WHISKERS) + 1
    map_factor = "layout"

    def __init__(
        self,
        *,
        task: Task = "explore",
        layouts: Layouts = "builtin",
        size: int = 7,
        map_share: float = 0.0,
        dome_share: float = 0.0,
        actions: ActionMode = "continuous",
        shadows: bool = False,
        obs_mode: ObservationMode = "views",
        views: int = 1,
        image_size: int | tuple[int, int] = 64,
        render_mode: str | None = None,
        render_size: int | tuple[int, int] = 480,
    ) -> None:
        self.task: Task = choose("task", task, get_args(Task))
        self.layouts: Layouts = choose("layouts", layouts, get_args(Layouts))
        self.size = int(choose("size", size, SIZES))
        check_share("map_share", map_share)
        check_share("dome_share", dome_share)
        if map_share + dome_share > 1:
            raise ValueError(f"map_share + dome_share must be at most 1, got {map_share} + {dome_share}")
        self.map_share, self.dome_share = map_share, dome_share
        self._cells = size + 2
        width = self._cells * CELL
        #: The camera that sees the whole maze from above.
        self.map_pose: Pose = np.array([0, 0, _map_height(width), np.pi / 2, -np.pi / 2], np.float32)
        spec = maze_spec(self._cells)
        add_walker(spec, height=HEIGHT, eye_height=EYE_HEIGHT)
        _add_ball(spec, COMMON_GROUP if task == "goal" else HIDDEN_GROUP)
        super().__init__(
            spec.compile(),
            actions=actions,
            dome=Dome(radius=(0.95 * width, 0.95 * width), elevation=(55.0, 65.0)),
            fixed=Fixed({"map": self.map_pose}),
            shadows=shadows,
            obs_mode=obs_mode,
            views=views,
            image_size=image_size,
            render_mode=render_mode,
            render_size=render_size,
        )
        self.scene_factors = ("layout", "appearance")
        self.state_groups = {"walls": slice(0, size * size)}
        self.state_quantities = {"walls": Quantity(self.state_groups["walls"], "flags")}
        self.state_size = size * size
        if task == "goal":
            self.scene_factors = (*self.scene_factors, "ball")
            self.state_groups = {**self.state_groups, "ball": slice(size * size, size * size + 3)}
            self.state_size += 3
        self._maze = MazeModel(self.model, self._cells)
        self._ball_body = self.model.body("ball").id
        self._ball = self.model.body_mocapid[self._ball_body]
        self._ball_wish = np.zeros(2)
        self._layout = draw_layout(layouts, size, np.random.default_rng(0))
        self._visited = np.zeros_like(self._layout.walls)
        self._steps = np.zeros(self._visited.shape)
        self.new_scene(np.random.default_rng(0))

    # Truth ----------------------------------------------------------------------------------------------------

    @property
    def walls(self) -> NDArray[np.bool_]:
        """Which cells are wall (N, N), the outer walls included; the first index is along x, the second along y."""
        return self._layout.walls.copy()

    @property
    def visited(self) -> NDArray[np.bool_]:
        """Which cells (N, N) the agent has been in since the episode began."""
        return self._visited.copy()

    @property
    def coverage(self) -> float:
        """The share of the open cells that the agent has been in, in [0, 1]."""
        return float(self._visited.sum() / (~self._layout.walls).sum())

    @property
    def ball_position(self) -> NDArray[np.float64]:
        """The ball's middle, metres (3,)."""
        return self.data.mocap_pos[self._ball].copy()

    def state(self) -> NDArray[np.float32]:
        heights = WALL_HEIGHT * self._layout.walls[1:-1, 1:-1].ravel()
        parts = [heights, self.ball_position] if self.task == "goal" else [heights]
        return np.concatenate(parts).astype(np.float32)

    def oracle(self) -> NDArray[np.float32]:
        towards, length = self._way()
        sight = self._sight() / LENGTH_UNIT
        way = [*self.in_own_frame(towards), length / LENGTH_UNIT]
        return np.concatenate([self.proprio(), way, sight, [self.coverage]]).astype(np.float32)

    def is_free(self, place: NDArray[np.floating], margin: float) -> bool:
        """Whether no wall is in the square of half-width ``margin`` (metres) about ``place`` (2,)."""
        (left, bottom), (right, top) = cell_at(np.stack([place - margin, place + margin]), self._cells)
        inside = min(left, bottom) >= 0 and max(right, top) < self._cells
        return bool(inside and not self._layout.walls[left : right + 1, bottom : top + 1].any())

    def _is_at_ball(self, place: NDArray[np.float64]) -> bool:
        return bool(self.task == "goal" and np.linalg.norm(self.ball_position[:2] - place) < REACH)

    @property
    def render_pose(self) -> Pose:
        return self.dome.at(-90.0, 60.0)

    def _way(self) -> tuple[NDArray[np.float64], float]:
        """Direction (2,) of the next cell on the way to what is wanted, and the way's length, metres; or zeros.

        The way leads straight to the middle of a cell next to the agent's, then from cell to cell.
        """
        place, here = self.place, self._cell()
        ends = [here] if self._steps[here] == 0 else self._layout.neighbours(here)
        middles = cell_middle(np.array(ends), self._cells) - place
        lengths = np.linalg.norm(middles, axis=1) + CELL * np.array([self._steps[end] for end in ends])
        best = int(np.argmin(lengths))
        first = float(np.linalg.norm(middles[best]))
        if not np.isfinite(lengths[best]) or first == 0:
            return np.zeros(2), 0.0
        return middles[best] / first, float(lengths[best])

    def _sight(self) -> NDArray[np.float64]:
        """How far the walls are in each direction of ``WHISKERS`` (8,), metres."""
        angles = self.yaw + WHISKERS
        rays = np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=1)
        eye, hit = np.array([*self.place, EYE_HEIGHT]), np.zeros(1, np.int32)
        shown = np.zeros(mujoco.mjNGROUP, np.uint8)
        shown[COMMON_GROUP] = 1
        lengths = [mujoco.mj_ray(self.model, self.data, eye, ray, shown, 1, self._ball_body, hit) for ray in rays]
        return np.minimum(lengths, WHISKER_LENGTH)

    def _cell(self) -> Cell:
        i, j = cell_at(self.place, self._cells)
        return int(i), int(j)

    def _seek(self) -> None:
        """Work out the way from everywhere to what is wanted."""
        wanted: Iterable[NDArray[np.int64]] = np.argwhere(~self._layout.walls & ~self._visited)
        if self.task == "goal":
            wanted = [cell_at(self.ball_position[:2], self._cells)]
        self._steps = self._layout.steps_to((int(i), int(j)) for i, j in wanted)

    # Gymnasium ------------------------------------------------------------------------------------------------

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in a new maze; takes no options."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self._visited[:] = False
        while True:
            self.new_scene(self.np_random)
            starts = self._layout.open_cells
            if self.task == "goal":
                self._seek()
                starts = starts[self._steps[tuple(starts.T)] >= START_STEPS]
            if len(starts):
                break
        self.data.qpos[:2] = cell_middle(self.np_random.choice(starts), self._cells)
        self.data.qpos[2] = self.np_random.uniform(-np.pi, np.pi)
        mujoco.mj_forward(self.model, self.data)
        self._visited[self._cell()] = True
        self._seek()
        self._place_cameras(new_episode=True)
        return self._observe(), self._info()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Turn and go for one decision: ``action`` (2,), shares of the limits in [-1, 1], or a discrete action."""
        before = self._way()[1]
        self._walk(action)
        is_new = not self._visited[self._cell()]
        if is_new:
            self._visited[self._cell()] = True
            self._seek()
        info = self._info()
        reward = float(is_new) if self.task == "explore" else before - info["distance"] + BONUS * info["is_success"]
        return self._observe(), reward, info["is_success"], False, info

    def _info(self) -> dict[str, Any]:
        if self.task == "explore":
            return {"coverage": self.coverage, "is_success": self.coverage == 1}
        distance = self._way()[1]
        return {"coverage": self.coverage, "distance": distance, "is_success": distance < REACH}

    # Scenes ---------------------------------------------------------------------------------------------------

    def draw_factor(self, factor: str, rng: np.random.Generator) -> None:
        """Draw ``layout``, ``appearance`` or, in task ``goal``, ``ball`` anew."""
        choose("factor", factor, self.scene_factors)
        if factor == "layout":
            self._layout = draw_layout(self.layouts, self.size, rng)
            self._visited[:] = False
            self._maze.show(self._layout)
        elif factor == "appearance":
            self._maze.draw_looks(self._layout, rng)
        else:
            self._ball_wish = rng.uniform(-self.size / 2, self.size / 2, 2) * CELL
        # Whatever the layout, the ball is in the open cell next to where it was drawn.
        middles = cell_middle(self._layout.open_cells, self._cells)
        nearest = np.argmin(np.linalg.norm(middles - self._ball_wish, axis=1))
        self.data.mocap_pos[self._ball] = *middles[nearest], BALL_HEIGHT
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def sample_pose(self, rng: np.random.Generator) -> Pose:
        """A camera pose (5,) where the agent's eyes can be, or ``map_pose``, or in the dome."""
        kind = rng.random()
        if kind < self.map_share:
            return self.map_pose.copy()
        if kind < self.map_share + self.dome_share:
            return self.dome.sample(rng)
        while True:
            place = cell_middle(rng.choice(self._layout.open_cells), self._cells) + rng.uniform(-CELL / 2, CELL / 2, 2)
            if self.is_free(place, RADIUS) and not self._is_at_ball(place):
                return np.array([*place, EYE_HEIGHT, rng.uniform(-np.pi, np.pi), EYE_PITCH], np.float32)

    def walk_poses(self, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
        """Poses (count, 5) of the eyes of one who explores the present maze, from a random cell on.

        One pose for each step from cell to cell, towards the next: on a shortest way to a cell that was not entered
        yet, and when there is none, as if none had been. In task ``goal``, there is none from inside the ball.
        """
        cell = tuple(rng.choice(self._layout.open_cells).tolist())
        entered = self._layout.walls.copy()
        poses: list[list[float]] = []
        while len(poses) < count:
            entered[cell] = True
            if entered.all():
                entered = self._layout.walls.copy()
                entered[cell] = True
            steps = self._layout.steps_to((int(i), int(j)) for i, j in np.argwhere(~entered))
            ways = self._layout.neighbours(cell)
            lengths = np.array([steps[way] for way in ways])
            after = ways[rng.choice(np.flatnonzero(lengths == lengths.min()))]
            place = cell_middle(np.array(cell), self._cells)
            if not self._is_at_ball(place):
                yaw = np.arctan2(after[1] - cell[1], after[0] - cell[0])
                poses.append([*place, EYE_HEIGHT, yaw, EYE_PITCH])
            cell = after
        return np.array(poses, np.float32)


def _map_height(width: float) -> float:
    """Metres above the floor from where a camera sees the tops of all walls of a maze of this width, and no more."""
    return float(WALL_HEIGHT + width / 2 / np.tan(np.deg2rad(FOVY) / 2))


def _add_ball(spec: mujoco.MjSpec, group: int) -> None:
    ball = spec.worldbody.add_body(name="ball", mocap=True)
    ball.add_geom(
        name="ball",
        type=mujoco.mjtGeom.mjGEOM_SPHERE,
        size=[BALL_RADIUS, 0, 0],
        rgba=[*BALL_COLOR, 1],
        contype=0,
        conaffinity=0,
        group=group,
    )
