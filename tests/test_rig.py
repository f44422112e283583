"""CameraRig: cameras change nothing of what they look at, see it where it is, and find their own places."""

from __future__ import annotations

import re
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from conftest import ROOT
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from gqn_rl import CAMERA_RIG
from gqn_rl.agents.training import TrainConfig
from gqn_rl.cameras import project
from gqn_rl.cli import main
from gqn_rl.commands.scenes import make_scene_source, scenes_to_probe
from gqn_rl.commands.train import rig_to_train
from gqn_rl.config import UserError
from gqn_rl.data import BlockPlan, RecordConfig, describe_source, load_manifest, set_scene
from gqn_rl.encoder import GQNEncoder, load_encoder
from gqn_rl.envs import rig_stage
from gqn_rl.envs.rig import PERTURBING_STEPS, CameraRig, rig_for
from gqn_rl.envs.rig_stage import make_inner, simulation
from gqn_rl.envs.rig_survey import survey
from gqn_rl.types import Perturbable, SceneSource

FETCH, REACHER, DM_REACHER = "FetchReach-v4", "Reacher-v5", "dm_control/reacher-easy-v0"
#: The package that an environment comes from, where it is not Gymnasium itself.
PACKAGES = {
    **dict.fromkeys((FETCH, "FetchPush-v4", "HandManipulateBlock-v1"), "gymnasium_robotics"),
    DM_REACHER: "shimmy",
}
SIDE = 32

WORLD = """<mujoco><visual><global {view}/></visual><worldbody><light pos="0 0 3"/>
  <geom name="floor" type="plane" size="2 2 .1"/>{extra}
  <body name="puck" pos=".5 0 .1"><joint name="x" type="slide" axis="1 0 0" damping="1"/>
    {geom}<site name="mark" group="4" size=".05"/></body>
</worldbody><actuator><motor joint="x" gear="30"/></actuator></mujoco>"""
BARE = """<mujoco><worldbody><body><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/><joint type="slide"/></body>
</worldbody></mujoco>"""
PUCK = '<geom name="puck" type="sphere" size=".1" rgba="1 0 0 1"/>'


def test_a_video_of_it_runs_as_fast_as_the_environment_decides() -> None:
    for env_id, kwargs in (("Reacher-v5", {}), ("Pusher-v5", {})):
        rig: Any = gym.make(f"gqn_rl:{CAMERA_RIG}", env_id=env_id, env_kwargs=kwargs).unwrapped
        assert rig.metadata["render_fps"] == rig.inner.metadata["render_fps"]
        rig.close()
    assert CameraRig.metadata["render_fps"] == 25


def test_options_that_json_cannot_hold_are_named() -> None:
    with pytest.raises(ValueError, match=r"env_kwargs must be what JSON can hold .*float32"):
        CameraRig("Reacher-v5", env_kwargs={"reward_dist_weight": np.float32(1)})
    for name, value, words in (("radius", "far", "a number or"), ("center", 3, "x, y, z")):
        with pytest.raises(ValueError, match=f"{name} must be {words}"):
            CameraRig("Reacher-v5", **{name: value})  # type: ignore[arg-type]


class World(gym.Env[Any, Any]):
    """A puck on a slide, as small as a MuJoCo environment can be."""

    def __init__(self, geom: str = PUCK, extra: str = "", push: float = 1.0, view: str = 'fovy="30"') -> None:
        self.model = mujoco.MjModel.from_xml_string(WORLD.format(geom=geom, extra=extra, view=view))
        self.data = mujoco.MjData(self.model)
        self.push = push
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[0] = self.push * self.np_random.uniform(-0.3, 0.3)
        mujoco.mj_forward(self.model, self.data)
        return self.data.qpos.copy(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.data.ctrl[:] = self.push * action
        mujoco.mj_step(self.model, self.data, nstep=20)
        return self.data.qpos.copy(), 0.0, False, False, {}


class Bare(World):
    """A model without geoms."""

    def __init__(self) -> None:
        super().__init__()
        self.model = mujoco.MjModel.from_xml_string(BARE)
        self.data = mujoco.MjData(self.model)


class Edge(World):
    """An episode ends where the puck leaves the middle, and an action after that is an error."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.ended = False
        return super().reset(seed=seed)

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert not self.ended, "stepped after its end"
        observation, reward, *_ = super().step(action)
        self.ended = bool(abs(observation[0]) > 0.3)
        return observation, reward, self.ended, False, {}


if "toy/World-v0" not in gym.registry:
    gym.register("toy/Edge-v0", entry_point=Edge, max_episode_steps=10)
    gym.register("toy/World-v0", entry_point=World, max_episode_steps=10)
    gym.register("toy/Bare-v0", entry_point=Bare, max_episode_steps=10)


@contextmanager
def rig(env_id: str, **kwargs: Any) -> Iterator[CameraRig]:
    if env_id in PACKAGES:
        pytest.importorskip(PACKAGES[env_id])
    env = gym.make(CAMERA_RIG, env_id=env_id, **{"image_size": SIDE, **kwargs}, disable_env_checker=True)
    try:
        assert isinstance(env.unwrapped, CameraRig)
        yield env.unwrapped
    finally:
        env.close()


def red(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The centre (row, column) of what is red in ``image``, NaN for nothing."""
    r, g, b = image.astype(int).transpose(2, 0, 1)
    places = np.argwhere((r > 60) & (r > 2 * g) & (r > 2 * b))
    return places.mean(0) if len(places) else np.full(2, np.nan)


@pytest.mark.parametrize(
    ("env_id", "obs_mode"),
    [
        *((i, "views") for i in (REACHER, FETCH, DM_REACHER)),
        *((i, "oracle") for i in (REACHER, FETCH)),
        (REACHER, "pixels"),
    ],
)
def test_checkers_find_nothing(env_id: str, obs_mode: str) -> None:
    with rig(env_id, obs_mode=obs_mode, cameras="moving") as env, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bounds that are infinite
        check_env(env, skip_render_check=True)
        sb3_check_env(env, warn=False)
        assert isinstance(env, SceneSource)
        assert isinstance(env, Perturbable)


@pytest.mark.parametrize("env_id", [REACHER, FETCH, DM_REACHER])
def test_cameras_change_nothing_of_what_they_look_at(env_id: str) -> None:
    with rig(env_id, cameras="moving") as env:
        alone = make_inner(env_id, {})
        model, _ = simulation(env.inner) or pytest.fail("no model")
        fields = ("geom_group", "site_group", "geom_rgba", "site_rgba")
        before = {name: getattr(model, name).copy() for name in fields}
        settings = str(model.vis.quality), model.vis.global_.fovy, model.vis.global_.offwidth
        env.reset(seed=3)
        alone.reset(seed=3)
        for _ in range(8):
            action = alone.action_space.sample()
            _, *ours = env.step(action)
            observation, *theirs = alone.step(action)
            assert ours[:3] == theirs[:3]
            assert set(ours[3]) == set(theirs[3])
            for mine, other in ((env._observation, observation), (simulation(env.inner)[1], simulation(alone)[1])):  # type: ignore[index]
                parts = (
                    [(mine[key], other[key]) for key in other]
                    if isinstance(other, dict)
                    else [(mine.qpos, other.qpos), (mine.qacc_warmstart, other.qacc_warmstart)]
                    if isinstance(other, mujoco.MjData)
                    else [(mine, other)]
                )
                assert all(np.array_equal(a, b) for a, b in parts)
        assert all(np.array_equal(getattr(model, name), value) for name, value in before.items())
        assert settings == (str(model.vis.quality), model.vis.global_.fovy, model.vis.global_.offwidth)
        alone.close()


@pytest.mark.parametrize(("env_id", "goal"), [(REACHER, "target"), (FETCH, "desired_goal"), (DM_REACHER, "target")])
def test_the_goal_is_seen_where_it_is(env_id: str, goal: str) -> None:
    errors = []
    with rig(env_id, image_size=64) as env:
        for scene in range(6):
            set_scene(env, BlockPlan(), 0, scene)
            pose = env.sample_pose(np.random.default_rng(scene))
            place = env.state()[env.state_groups[goal]]
            expected = project(place, pose, env.fovy, 64, 64)
            assert ((expected > -0.5) & (expected < 63.5)).all()
            errors.append(np.linalg.norm(red(env.render_view(pose)) - expected))
    seen = np.array(errors)[~np.isnan(errors)]  # behind the robot there is nothing red
    assert len(seen) >= 4
    assert np.median(seen) < 1.5


@pytest.mark.parametrize("env_id", [FETCH, DM_REACHER])
def test_what_matters_is_in_the_picture(env_id: str) -> None:
    inside = []
    with rig(env_id) as env:
        for scene in range(20):
            set_scene(env, BlockPlan(), 1, scene)
            pose = env.sample_pose(np.random.default_rng(scene))
            state = env.state()
            places = np.stack([state[part] for part in env.state_groups.values()])
            row_column = project(places, pose, env.fovy, SIDE, SIDE)
            inside.append((row_column > -0.5) & (row_column < SIDE - 0.5))
    assert np.mean(inside) > 0.95


@pytest.mark.parametrize("cameras", ["fixed", "episode", "moving"])
def test_views_are_of_one_moment_and_cameras_move_when_they_should(cameras: str) -> None:
    with rig(REACHER, cameras=cameras, views=3) as env:
        first, _ = env.reset(seed=0)
        second, *_ = env.step(np.array([1.0, -1.0]))
        third, _ = env.reset()
        for image, pose in zip(third["images"], third["poses"], strict=True):
            assert np.array_equal(image, env.render_view(pose))
        moved = [not np.array_equal(first["poses"], other["poses"]) for other in (second, third)]
        assert moved == {"fixed": [False, False], "episode": [False, True], "moving": [True, True]}[cameras]
        assert len({pose.tobytes() for pose in first["poses"]}) == 3
        again, _ = env.reset(seed=0)
        other, _ = env.reset(seed=1)
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["images"], other["images"])


def test_goal_and_robot_are_drawn_apart_and_what_is_hidden_is_hidden() -> None:
    for hide in ((), ("site:target0",)):
        with rig(FETCH, hide=hide) as env:
            assert env.scene_factors == ("goal", "robot")
            env.new_scene(np.random.default_rng(0))
            pose, parts = env.sample_pose(np.random.default_rng(0)), env.state_groups
            before, picture = env.state(), env.render_view(pose)
            proprio = env.proprio()
            env.draw_factor("goal", np.random.default_rng(1))
            assert np.array_equal(env.state()[parts["hand"]], before[parts["hand"]])
            assert not np.array_equal(env.state()[parts["desired_goal"]], before[parts["desired_goal"]])
            assert np.array_equal(env.proprio(), proprio)
            assert np.array_equal(env.render_view(pose), picture) == bool(hide)
            goal = env.state()[parts["desired_goal"]]
            for change in (env.draw_factor, env.perturb_factor):
                hand = env.state()[parts["hand"]]
                change("robot", np.random.default_rng(2))
                assert np.array_equal(env.state()[parts["desired_goal"]], goal)
                assert not np.array_equal(env.state()[parts["hand"]], hand)
                assert not np.array_equal(env.render_view(pose), picture)
            # The handle that the simulation pulls the gripper by is no part of the picture, wherever it is.
            now = env.render_view(pose)
            _, data = simulation(env.inner) or pytest.fail("no data")
            data.mocap_pos[:] += 0.1
            assert np.array_equal(env.render_view(pose), now)


def test_no_scene_goes_on_after_its_episode_has_ended() -> None:
    with rig("toy/Edge-v0", track={"puck": "body:puck"}) as env:
        rng, ended = np.random.default_rng(0), 0
        for _ in range(30):
            env.draw_factor("scene", rng)
            assert not cast(Edge, env.inner.unwrapped).ended
            for _ in range(4):  # the first may end it
                env.perturb_factor("scene", rng)
                ended += cast(Edge, env.inner.unwrapped).ended
        assert ended > 3


@pytest.mark.parametrize("env_id", [REACHER, FETCH, DM_REACHER, "HandManipulateBlock-v1"])
def test_a_scene_depends_on_its_number_alone(env_id: str) -> None:
    with rig(env_id) as env:
        block = BlockPlan()
        if len(env.scene_factors) == 2:
            block = BlockPlan(rows="goal", columns="robot", height=2, width=4, family=2)
            describe_source(env, RecordConfig(env=CAMERA_RIG, block=block))
        pose = env.sample_pose(np.random.default_rng(0))

        def look(scene: int) -> tuple[bytes, bytes]:
            set_scene(env, block, 7, scene)
            return env.state().tobytes(), env.render_view(pose).tobytes()

        first = [look(scene) for scene in (0, 5, 3)]
        assert [look(scene) for scene in (3, 5, 0)] == first[::-1]
        assert len(set(first)) == 3


def test_what_a_policy_sees_does_not_hold_what_it_has_to_find() -> None:
    with rig("FetchPush-v4") as env:
        env.reset(seed=0)
        own = env.inner.unwrapped
        before, frame = env.proprio(), env.frame()
        place = own._utils.get_joint_qpos(own.model, own.data, "object0:joint")
        place[:2] += 0.03
        own._utils.set_joint_qpos(own.model, own.data, "object0:joint", place)
        mujoco.mj_forward(own.model, own.data)
        after = own._get_obs()
        assert not np.array_equal(after["observation"], env._observation["observation"])
        env._observation = after
        assert np.allclose(env.proprio(), before, atol=1e-6)
        assert np.array_equal(env.frame(), frame)
    with rig(REACHER) as env:
        observation, _ = env.reset(seed=0)
        assert observation["proprio"].shape == (6,)
        tip = env._observation[8:10] + env._observation[4:6]  # to the target, and the target
        assert np.allclose(observation["frame"][:2] + env.center[:2], tip, atol=1e-3)
    with rig("toy/World-v0") as env:
        observation, _ = env.reset(seed=0)
        assert observation.keys() == {"images", "poses"}
    with rig("toy/World-v0", proprio=[0], frame="body:puck") as env:
        observation, _ = env.reset(seed=0)
        assert observation["frame"][0] + env.center[0] == pytest.approx(0.5 + env._observation[0], abs=1e-6)


def test_places_of_cameras_are_found_or_given() -> None:
    with rig("toy/World-v0", placement="ring") as env:
        assert abs(env.center[0] - 0.5) < 0.1
        assert env.dome.radius[0] == env.dome.radius[1]
        assert env.dome.elevation == (35.0, 35.0)
        assert env.dome.azimuth == (-180.0, 180.0)
        places = np.stack([env.sample_pose(np.random.default_rng(i))[:3] for i in range(20)])
        assert np.ptp(np.linalg.norm(places, axis=1)) < 1e-4
    wall = '<geom type="box" size=".05 3 3" pos="-.2 0 0"/>'
    with rig("toy/World-v0", env_kwargs={"extra": wall}) as env:
        low, high = env.dome.azimuth
        assert -120 <= low < 0 < high <= 120  # not from behind the wall
        found = env.dome
        survey.cache_clear()
    with rig("toy/World-v0", env_kwargs={"extra": wall}) as env:
        assert env.dome == found
    given = {"center": [0.5, 0, 0.2], "radius": 2, "elevation": [10, 20], "azimuth": [0, 90]}
    with rig("toy/World-v0", **given) as env:
        assert env.center.tolist() == [0.5, 0.0, 0.2]
        assert (env.dome.radius, env.dome.elevation, env.dome.azimuth) == ((2.0, 2.0), (10.0, 20.0), (0.0, 90.0))
        pose = env.dome.at(45, 15)
        place = project([0.0, 0.0, -0.1], pose, env.fovy, SIDE, SIDE)  # of the puck at rest
        env.inner.unwrapped.data.qpos[:] = 0
        assert np.linalg.norm(red(env.render_view(pose)) - place) < 1


CAGE = "".join(f'<geom type="box" size=".02 2 2" pos="{x} 0 0"/>' for x in (-0.2, 1.2)) + "".join(
    f'<geom type="box" size="2 .02 2" pos="0 {y} 0"/>' for y in (-0.5, 0.5)
)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("CartPole-v1", {}, "CartPoleEnv has no MuJoCo model and data .*ViewAdapter"),
        ("toy/World-v0", {"env_kwargs": {"push": 0.0}}, "nothing in toy/World-v0 moves by itself; set center and"),
        ("toy/World-v0", {"env_kwargs": {"extra": CAGE}}, "no camera can be placed: .* set center, radius"),
        ("toy/World-v0", {"hide": ["geom:puck", "geom:floor"]}, "there is nothing to see: the model has no visible"),
        (
            "toy/World-v0",
            {"hide": ["geom:puck"]},
            "no camera can be placed: nothing of toy/World-v0 is visible but planes",
        ),
        ("toy/Bare-v0", {}, "there is nothing to see: the model has no geoms and no sites; give its bodies some"),
        ("toy/World-v0", {"hide": ["geom:pack"]}, "no geom 'pack'; valid: floor, puck"),
        ("toy/World-v0", {"hide": ["puck"]}, "geom:NAME, site:NAME or body:NAME, got 'puck'"),
        ("toy/World-v0", {"observe": ["observation"]}, "observe is for Dict observations, this one is flat"),
        ("toy/World-v0", {"proprio": [1]}, r"proprio holds \[1\], but what is observed has 1 numbers"),
        ("toy/World-v0", {"frame": "achieved_goal"}, "has no such position in its observation"),
        ("toy/World-v0", {"frame": "hand"}, "geom:NAME, site:NAME or body:NAME, got 'hand'"),
        ("toy/World-v0", {"placement": "cube"}, "placement must be one of dome, ring; got 'cube'"),
        ("toy/World-v0", {"policy": "nowhere:at_all"}, "policy must be module:function, got 'nowhere:at_all'"),
        ("toy/World-v0", {"radius": -1}, "radius must be above 0"),
        ("toy/World-v0", {"views": 0}, "views must be an integer of at least 1, got 0"),
        ("toy/World-v0", {"azimuth": 30.0}, r"azimuth must be \(from, to\) in degrees, at most 360 apart, got 30.0"),
        ("toy/World-v0", {"azimuth": (0, 7200)}, "azimuth must be .* at most 360 apart"),
        (
            "toy/World-v0",
            {"placement": "ring", "radius": (1, 2)},
            r"placement 'ring' has one radius, .* got \(1.0, 2.0\)",
        ),
        ("toy/World-v0", {"placement": "ring", "elevation": (10, 60)}, "placement 'ring' has one elevation"),
        ("toy/World-v0", {"elevation": "ab"}, r"elevation must be a number or \(low, high\), got 'ab'"),
        ("toy/World-v0", {"center": "abc"}, "center must be x, y, z in metres, got 'abc'"),
        ("toy/World-v0", {"fovy": "45"}, "fovy must lie between 0 and 180 degrees, got '45'"),
        ("toy/World-v0", {"hide": "body:pack"}, "no body 'pack'"),
        ("toy/World-v0", {"hide": 3}, "hide must be a name or a list of names, got 3"),
        ("toy/World-v0", {"hide": [3]}, r"hide must be a name or a list of names, got \[3\]"),
        ("toy/World-v0", {"track": "hand"}, "track must map names to elements of the model, .* got 'hand'"),
        ("toy/World-v0", {"track": {"a": 3}}, "track must map names to elements of the model"),
        ("toy/World-v0", {"frame": 3}, "frame must be an element of the model, 'achieved_goal' or 'none', got 3"),
        ("toy/World-v0", {"proprio": 5}, r"proprio holds \[5\]"),
        ("toy/World-v0", {"proprio": [True]}, r"proprio holds \[True\]"),
        ("toy/World-v0", {"policy": 5}, "policy must be module:function or a function .*, got 5"),
        ("toy/World-v0", {"env_kwargs": "a"}, "env_kwargs must be a mapping of keyword arguments, got 'a'"),
        ("toy/World-v0", {"fovy": True}, "fovy must lie between 0 and 180 degrees, got True"),
        (FETCH, {"observe": ["goal"]}, "no numeric part 'goal'; valid: achieved_goal, desired_goal, observation"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_stays_open(
    env_id: str, kwargs: Mapping[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if env_id in PACKAGES:
        pytest.importorskip(PACKAGES[env_id])
    made, closed = [], []
    make = rig_stage.gym.make

    def watched(*args: Any, **more: Any) -> Any:
        env = make(*args, **more)
        close = env.close
        made.append(env)
        env.close = lambda: (closed.append(env), close())  # type: ignore[method-assign]
        return env

    with monkeypatch.context() as patch:
        patch.setattr(rig_stage.gym, "make", watched)
        with pytest.raises(ValueError, match=words):
            CameraRig(env_id, **kwargs)
    assert len(closed) == len(made)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "shimmy", None)
    with pytest.raises(ValueError, match=r"dm_control/none-v0 is of shimmy .* pip install 'gqn-rl\[robots\]'"):
        rig_for("dm_control/none-v0")


def test_an_arc_may_lie_behind() -> None:
    with rig("toy/World-v0", azimuth=(150, -150)) as env:
        assert env.dome.azimuth == (150.0, 210.0)


def test_a_colour_of_its_own_is_that_of_an_element_whatever_its_material() -> None:
    """A clear material, and an opaque colour beside it: MuJoCo draws the colour."""
    clear = '<asset><material name="clear" rgba="0 1 0 0"/></asset>'
    for geom, drawn in (('rgba="1 0 0 1"', 1), ("", 0)):
        box = f'<geom type="box" size=".1 .1 .1" material="clear" {geom}/>'
        floor = '<geom type="plane" size="1 1 1"/>'
        model = mujoco.MjModel.from_xml_string(f"<mujoco>{clear}<worldbody>{floor}{box}</worldbody></mujoco>")
        inner = SimpleNamespace(model=model, data=mujoco.MjData(model))
        stage = rig_stage.Stage(cast(Any, SimpleNamespace(unwrapped=inner)))
        assert len(stage.visible_places(stage.look())[0]) == drawn  # planes have no place


def test_goals_that_are_bodies_are_seen_where_they_are() -> None:
    pytest.importorskip("gymnasium_robotics")
    with rig("HandManipulateBlock-v1", views=1) as env:
        inner: Any = env.inner.unwrapped
        env.new_scene(np.random.default_rng(0))
        before, simulated = env.render_view(env.camera_poses[0]), inner.data.qpos.copy()
        inner.goal = inner._sample_goal()
        assert (env.render_view(env.camera_poses[0]) != before).any(axis=-1).sum() > 5
        np.testing.assert_allclose(env.stage.position("body:target", env.stage.look()), inner.goal[:3], atol=1e-6)
        assert np.array_equal(inner.data.qpos, simulated)  # the simulation knows nothing of it


def go_left(observation: Any, rng: np.random.Generator) -> Any:
    return np.array([-1.0], np.float32)


def test_scenes_follow_the_policy_that_is_given() -> None:
    states = []
    for policy in (None, f"{__name__}:go_left"):
        with rig("toy/World-v0", policy=policy, track={"puck": "body:puck"}, scene_steps=10) as env:
            drawn = []
            for scene in range(20):
                set_scene(env, BlockPlan(), 0, scene)
                drawn.append(env.state()[0] + env.center[0])
            states.append(drawn)
    assert np.mean(states[1]) < np.mean(states[0]) - 0.2


def test_numbers_are_in_the_units_of_random_actions_whatever_the_policy() -> None:
    with rig("toy/World-v0", policy=f"{__name__}:go_left", proprio=[0]) as env:
        env.action_space.seed(0)
        seen = []
        for episode in range(20):
            env.reset(seed=episode)
            seen += [env.step(env.action_space.sample())[0]["proprio"] for _ in range(10)]
    assert abs(np.mean(seen)) < 0.5
    assert 0.5 < np.std(seen) < 2


def test_an_action_that_is_no_number_is_refused() -> None:
    """MuJoCo would let the robot stand still, and go on."""
    with rig("toy/World-v0") as env:
        env.reset(seed=0)
        with pytest.raises(ValueError, match="an action must be finite"):
            env.step(np.array([np.nan], np.float32))
        with pytest.raises(ValueError, match="an action must be of Box"):
            env.step(np.zeros(2, np.float32))


@pytest.mark.parametrize("views", range(2, 8))
def test_on_a_whole_circle_no_two_cameras_are_face_to_face(views: int) -> None:
    with rig("toy/World-v0", views=views, azimuth=(-180, 180)) as env:
        yaws = env.camera_poses[:, 3]
        apart = np.abs((yaws[:, None] - yaws + np.pi) % (2 * np.pi) - np.pi) + 2 * np.pi * np.eye(views)
        assert (np.abs(apart - np.pi) > 0.2).all()
        assert apart.min() > 2 * np.pi / (views + 2)


def test_a_model_seen_without_perspective_gets_cameras_with_it() -> None:
    with rig("toy/World-v0", env_kwargs={"view": 'orthographic="true"'}, views=1, track={"puck": "body:puck"}) as env:
        env.reset(seed=0)
        pose = env.camera_poses[0]
        place = red(env.render_view(pose))
        assert np.isfinite(place).all()
        assert np.linalg.norm(place - project(env.state()[:3], pose, env.fovy, SIDE, SIDE)) < 2
        assert env.stage.model.vis.global_.orthographic == 1  # it is the environment's own


def test_what_appears_later_is_seen() -> None:
    ghost = PUCK.replace('rgba="1 0 0 1"', 'rgba="1 0 0 0"') + '<geom type="box" size=".02 .02 .02" rgba="0 0 1 1"/>'
    with rig("toy/World-v0", env_kwargs={"geom": ghost}, views=1) as env:
        env.reset(seed=0)
        assert np.isnan(red(env.render_view(env.camera_poses[0]))).all()
        env.stage.model.geom("puck").rgba[3] = 1
        assert np.isfinite(red(env.render_view(env.camera_poses[0]))).all()


def test_which_environments_need_a_rig() -> None:
    assert rig_for("gqn_rl/ArmReach-v0") is None
    assert rig_for("CartPole-v1") is None
    assert rig_for("no/such-v0") is None
    assert rig_for("conftest:toy/Reach-v0") is None
    assert rig_for("toy/World-v0") == rig_for(REACHER) == ("scene",)
    pytest.importorskip("gymnasium_robotics")
    assert rig_for(FETCH) == ("goal", "robot")


@pytest.mark.parametrize("env", [None, "toy/World-v0", CAMERA_RIG])
def test_scenes_of_the_training_are_not_held_out(env: str | None) -> None:
    recipe = {"env": CAMERA_RIG, "env_kwargs": {"env_id": "toy/World-v0"}, "seed": 0}
    before = {"data": {**recipe, "seed": 5}}
    options = Namespace(encoder="mine", env=env, seed=1)
    assert scenes_to_probe(options, {"data": recipe}) == (CAMERA_RIG, {"env_id": "toy/World-v0"})
    for seed in (0, 5):
        options.seed = seed
        with pytest.raises(UserError, match="held-out scenes need another"):
            scenes_to_probe(options, {"data": recipe, "lineage": [before]})


@pytest.mark.parametrize(
    "named",
    [
        {"env_id": "somebody:Theirs-v0"},
        {"env_id": "toy/World-v0", "policy": "somebody:act"},
        {"env_id": "toy/World-v0", "env_kwargs": {"task": ["somebody:Task"]}},
    ],
)
@pytest.mark.parametrize("env", [None, "toy/World-v0", CAMERA_RIG])
def test_somebody_elses_card_does_not_decide_what_is_imported(env: str | None, named: dict[str, Any]) -> None:
    card = {"data": {"env": CAMERA_RIG, "env_kwargs": named, "seed": 0}}
    options = Namespace(encoder="hf://owner/name", env=env, seed=1)
    if env in (None, CAMERA_RIG) or named["env_id"] == env:
        with pytest.raises(
            UserError, match="say it with --env" if env is None else "=.*somebody:.* code that you have"
        ):
            scenes_to_probe(options, card)
    else:
        assert scenes_to_probe(options, card) == (CAMERA_RIG, {"env_id": env})
    harmless = {"data": {"env": CAMERA_RIG, "env_kwargs": {"env_id": "toy/World-v0", "fovy": 60.0}, "seed": 0}}
    if env is not None:
        assert scenes_to_probe(options, harmless) == (CAMERA_RIG, harmless["data"]["env_kwargs"])


def test_hindsight_works_where_the_goal_is_known() -> None:
    pytest.importorskip("gymnasium_robotics")
    from stable_baselines3 import SAC, HerReplayBuffer

    env = gym.make(CAMERA_RIG, env_id=FETCH, obs_mode="state")
    assert env.observation_space == make_inner(FETCH, {}).observation_space
    model = SAC(
        "MultiInputPolicy",
        env,
        replay_buffer_class=HerReplayBuffer,
        buffer_size=1000,
        learning_starts=60,
        batch_size=32,
        policy_kwargs={"net_arch": [16]},
        seed=0,
    )
    model.learn(64)
    sample = model.replay_buffer.sample(512)  # type: ignore[union-attr]
    reached = (sample.rewards == 0).float().mean()
    assert reached > 0.1  # of relabelled goals many are reached; of the episodes' own, hardly any
    env.close()


def test_the_oracle_is_told_the_observation_in_other_units_and_the_way_to_the_goal() -> None:
    """Every number is an affine function of one that the environment says, or of the goal as seen from the hand."""
    with rig(FETCH, obs_mode="oracle") as env:
        told, said = [], []

        def note(observation: NDArray[np.float32]) -> None:
            raw = env._observation
            way = raw["desired_goal"] - raw["achieved_goal"]
            told.append(observation)
            said.append(np.concatenate([*(raw[name] for name in env.inner.observation_space.spaces), 0 * way, way]))

        env.action_space.seed(0)
        for seed in range(12):
            note(env.reset(seed=seed)[0])
            note(env.step(env.action_space.sample())[0])
        ours, theirs = np.array(told), np.array(said)
    moves = theirs.std(axis=0) > 1e-3
    assert moves[-3:].all()
    for mine, its in zip(ours.T[moves], theirs.T[moves], strict=True):
        slope, offset = np.polyfit(its, mine, 1)
        np.testing.assert_allclose(mine, slope * its + offset, atol=1e-3 * np.ptp(mine))
        assert slope > 0
    np.testing.assert_allclose(np.polyfit(theirs.T[-1], ours.T[-1], 1)[1], 0, atol=1e-3)  # no way to go: zero


def run(*words: Any) -> None:
    assert main([str(word) for word in words]) == 0


def test_the_command_line_makes_the_rig(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, encoder = tmp_path / "data", tmp_path / "encoder"
    options = ["--workers", 1, "--set", f"env_kwargs.image_size={SIDE}", "--set", "views=4"]
    run("record", "--env", REACHER, "--cameras", "ring", "--scenes", 24, "--out", data, *options)
    recorded = load_manifest(data)
    kwargs = {"env_id": REACHER, "placement": "ring", "image_size": SIDE}
    assert (recorded.config["env"], recorded.config["env_kwargs"]) == (CAMERA_RIG, kwargs)
    small = ["batch=8", "drawn=4", "held_out=8", "model.generator.channels=16"]
    run("pretrain", "--data", data, "--out", encoder, "--steps", 1, "--wandb", "disabled", *with_set(small))
    frozen = load_encoder(str(encoder))
    assert isinstance(frozen, GQNEncoder)
    assert frozen.gqn.config.image_size == (SIDE, SIDE)
    assert frozen.gqn.config.length_scale == pytest.approx(recorded.camera["distance"] / 1.85, abs=1e-3)

    # A policy's rig is the one that its encoder was trained with.
    def rig_of(**config: Any) -> Any:
        values = {"total_steps": 1, "env": {"id": REACHER}, **config}
        return rig_to_train(TrainConfig.from_mapping(values), frozen if config.get("encoder") else None)

    assert rig_of(encoder=str(encoder)) == kwargs
    assert rig_of(encoder=str(encoder), env={"id": REACHER, "kwargs": {"views": 3}}) == {**kwargs, "views": 3}
    assert rig_of(pixels={}) == {"env_id": REACHER}
    assert rig_of() is None  # it goes by the environment's own observation
    assert rig_of(encoder=str(encoder), env={"id": "gqn_rl/ArmReach-v0"}) is None

    sheet = tmp_path / "sheet.png"
    run("view", REACHER, "--out", sheet, "--scenes", 1, "--views", 2, "--set", f"image_size={SIDE}")
    assert sheet.exists()
    capsys.readouterr()
    assert main(["record", "--env", "CartPole-v1", "--cameras", "dome", "--out", str(tmp_path / "none")]) == 2
    assert "--cameras places a rig's cameras, but CartPole-v1 has its own, or no" in capsys.readouterr().err
    assert main(["record", "--env", "CartPol-v1", "--cameras", "dome", "--out", str(tmp_path / "none")]) == 2
    assert "unknown environment id 'CartPol-v1'; did you mean" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["view", "toy/World-v0", "--set", f"env_kwargs={{extra: '{CAGE}'}}"], "no camera can be placed: "),
        (["view", "toy/Bare-v0"], "there is nothing to see: the model has no geoms and no sites"),
        (["view", "toy/World-v0", "--set", "env_id=toy/Bare-v0"], "give toy/Bare-v0 instead of toy/World-v0"),
        (["record", "--env", "toy/Bare-v0", "--workers", "1"], "there is nothing to see: "),
        (["train", "--env", "toy/Bare-v0", "--encoder", "arm-reach"], "there is nothing to see: "),
    ],
)
def test_the_command_line_says_what_is_wrong_in_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--out", str(tmp_path / "out.png")]) == 2
    *warned, error = capsys.readouterr().err.splitlines()
    assert said in error
    assert error.startswith("error: ")
    assert len(warned) == (words[0] == "train")  # of an encoder that has never seen it
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_three_commands_train_fetch(cli: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("gymnasium_robotics")
    small = with_set(["batch=16", "drawn=4", "held_out=32"])
    short = with_set(["wandb=disabled", "evaluation.episodes=2", "threads=1"])
    for words in (
        ["record", "--env", FETCH, "--cameras", "dome", "--scenes", 320, "--out", "data/fetch", "--workers", 1],
        ["pretrain", "--data", "data/fetch", "--out", "encoders/fetch", "--steps", 2, "--wandb", "disabled", *small],
        ["train", "--env", FETCH, "--encoder", "encoders/fetch", "--steps", 150, "--out", "run", *short],
    ):
        done = cli(*words)
        assert done.returncode == 0, done.stderr
    recorded = load_manifest(tmp_path / "data" / "fetch").config
    assert recorded["block"] == {"rows": "goal", "columns": "robot", "height": 8, "width": 8, "family": 4}
    written = (tmp_path / "run" / "config.yaml").read_text()
    assert "env_id: FetchReach-v4" in written
    assert "task: FetchReach-v4" in written


def with_set(changes: list[str]) -> list[str]:
    return [word for change in changes for word in ("--set", change)]


def test_the_guide_runs(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "camera_rig.md").read_text(), re.DOTALL)[0]
    scope: dict[str, Any] = {}
    exec(compile(block, "camera_rig.md", "exec"), scope)
    scope["env"].close()
    assert "'images': (3, 64, 64, 3), 'poses': (3, 5), 'proprio': (6,), 'frame': (4,)" in capsys.readouterr().out


def test_a_rig_is_a_source_of_scenes_by_its_id() -> None:
    source = make_scene_source(CAMERA_RIG, {"env_id": "toy/World-v0", "image_size": SIDE})
    source.new_scene(np.random.default_rng(0))
    assert source.render_view(source.sample_pose(np.random.default_rng(0))).shape == (SIDE, SIDE, 3)
    source.close()  # type: ignore[attr-defined]


def test_a_recording_says_how_far_a_rig_s_cameras_are() -> None:
    with rig("toy/World-v0", radius=(1.0, 3.0)) as env:
        assert describe_source(env, RecordConfig(scenes=4, views=2)).camera["distance"] == 2.0


@pytest.mark.parametrize(("env_id", "own"), [(REACHER, 2), ("Pusher-v5", 7)])
def test_what_is_known_of_an_environment_shows_nothing_but_the_robot(env_id: str, own: int) -> None:
    """Of an arm of so many joints: all else goes elsewhere, and the numbers that a policy sees stay."""
    with rig(env_id) as env:
        env.reset(seed=0)
        inner: Any = env.inner.unwrapped
        before, said, place = env.proprio(), env._observation.copy(), inner.data.qpos.copy()

        def put(part: slice, by: float) -> None:
            place[part] += by
            inner.set_state(place, inner.data.qvel.copy())
            env._observation = inner._get_obs()

        put(slice(own, None), 0.05)
        assert not np.allclose(env._observation, said, atol=0.01)
        np.testing.assert_allclose(env.proprio(), before, atol=1e-5)
        put(slice(own), 0.3)
        assert (np.abs(env.proprio() - before) > 0.01).sum() >= own


def test_relatives_of_goals_and_robots_are_nearer_than_strangers() -> None:
    with rig(FETCH) as env:
        inner: Any = env.inner.unwrapped
        for factor, name in (("goal", "desired_goal"), ("robot", "hand")):
            part, moved, others = env.state_groups[name], [], []
            for scene in range(40):
                env.new_scene(np.random.default_rng(scene))
                before = env.state()[part]
                env.perturb_factor(factor, np.random.default_rng([scene, 1]))
                moved.append(np.linalg.norm(env.state()[part] - before))
                assert np.abs(inner.goal - inner.initial_gripper_xpos).max() <= inner.target_range + 1e-6
                env.draw_factor(factor, np.random.default_rng([scene, 2]))
                others.append(np.linalg.norm(env.state()[part] - before))
            assert min(moved) > 0
            assert np.mean(moved) < 0.75 * np.mean(others)


def test_the_way_to_a_goal_is_told_in_the_units_of_the_goal_itself() -> None:
    with rig(FETCH, obs_mode="oracle") as env:
        told, said = [], []
        for seed in (0, 1):
            told.append(env.reset(seed=seed)[0])
            said.append({name: value.copy() for name, value in env._observation.items()})
    start = said[0]["achieved_goal"].size  # parts of a Dict are in the order of their names
    goals = [one["desired_goal"] for one in said]
    scale = (goals[1] - goals[0]) / (told[1] - told[0])[start : start + 3]
    assert (scale < 0.2).all()  # the standard deviation of a goal, metres
    for ours, theirs in zip(told, said, strict=True):
        way = theirs["desired_goal"] - theirs["achieved_goal"]
        np.testing.assert_allclose(ours[-3:], way / scale, atol=0.02)


def test_a_scene_is_a_random_number_of_actions_from_its_beginning_and_no_more_than_is_said() -> None:
    counts = [0]

    def count(observation: Any, rng: np.random.Generator) -> Any:
        counts[-1] += 1
        return np.zeros(1, np.float32)

    with rig("toy/World-v0", scene_steps=3, policy=count, center=(0.5, 0, 0.1), radius=1) as env:
        drawn: set[int] = set()
        perturbed: set[int] = set()
        for scene in range(60):
            for change, seen in ((env.draw_factor, drawn), (env.perturb_factor, perturbed)):
                counts.append(0)
                change("scene", np.random.default_rng(scene))
                seen.add(counts[-1])
    assert drawn == set(range(4))
    assert perturbed == set(range(1, PERTURBING_STEPS + 1))


def test_the_distance_that_makes_the_unit_of_length_is_the_cameras_mean_one() -> None:
    with rig("toy/World-v0", radius=(1.0, 3.0)) as env:
        places = [env.sample_pose(np.random.default_rng(seed))[:3] for seed in range(400)]
        assert env.camera_metadata["distance"] == pytest.approx(np.linalg.norm(places, axis=1).mean(), rel=0.05)


def test_what_matters_fills_four_fifths_of_the_picture() -> None:
    with rig(FETCH) as env:
        nearest, farthest = env.dome.radius
        off = []
        for scene in range(100):
            env.new_scene(np.random.default_rng(scene))
            off += [np.linalg.norm(env.state()[part]) for part in env.state_groups.values()]
        filled = np.quantile(off, 0.9) / (nearest * np.sin(np.deg2rad(env.fovy / 2)))
        assert filled == pytest.approx(0.8, abs=0.08)
        assert farthest / nearest == pytest.approx(1.18)


@pytest.mark.parametrize("views", range(1, 6))
def test_on_an_arc_cameras_are_as_far_from_each_other_as_from_its_ends(views: int) -> None:
    with rig("toy/World-v0", views=views, azimuth=(150, -150), elevation=(10, 30)) as env:
        x, y, z = env.camera_poses[:, :3].T.astype(np.float64)
        azimuths = np.rad2deg(np.arctan2(y, x)) % 360
        np.testing.assert_allclose(np.diff([150, *azimuths, 210]), 60 / (views + 1), atol=1e-3)
        np.testing.assert_allclose(np.rad2deg(np.arctan2(z, np.hypot(x, y))), 20, atol=1e-3)


def test_a_rig_s_pixels_are_its_views_side_by_side_and_it_draws_itself_as_large_as_is_said() -> None:
    size = {"views": 2, "image_size": (24, 32)}
    with rig(REACHER, **size) as one, rig(REACHER, obs_mode="pixels", **size) as other:
        views, pixels = one.reset(seed=0)[0]["images"], other.reset(seed=0)[0]
        np.testing.assert_array_equal(pixels, np.concatenate(list(views), axis=-1))
    with rig(REACHER, render_mode="rgb_array", render_size=(40, 60)) as env:
        env.reset(seed=0)
        picture = env.render()
        assert picture is not None
        assert picture.shape == (40, 60, 3)
        assert picture.std() > 5


POST = '<body name="post" pos="-.5 0 .1"><geom name="post" type="box" size=".05 .05 .05"/></body>'


@pytest.mark.parametrize(
    ("hide", "show", "places"),
    [
        ((), (), [-0.5, 0.5]),
        ((), ("site:mark",), [-0.5, 0.5, 0.5]),
        (("body:post",), (), [0.5]),
        (("body:puck",), (), [-0.5]),
        (("geom:puck",), ("body:puck",), [-0.5, 0.5]),  # the site of that body is shown, and what is hidden is hidden
    ],
)
def test_elements_are_hidden_and_shown_by_name(
    hide: tuple[str, ...], show: tuple[str, ...], places: list[float]
) -> None:
    stage = rig_stage.Stage(World(extra=POST), hide, show)
    centres, _ = stage.visible_places(stage.look())
    np.testing.assert_allclose(sorted(centres[:, 0]), places, atol=1e-9)


class Anew(World):
    """It compiles another model for every episode, in which the puck is blue and red by turns."""

    episodes = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.episodes += 1
        super().__init__(PUCK if self.episodes % 2 else PUCK.replace("1 0 0 1", "0 0 1 1"))
        return super().reset(seed=seed)


if "toy/Anew-v0" not in gym.registry:
    gym.register("toy/Anew-v0", entry_point=Anew, max_episode_steps=10)


def test_a_model_that_is_compiled_anew_is_seen_as_it_is_now() -> None:
    with rig("toy/Anew-v0", views=1, track={"puck": "body:puck"}) as env:
        for seed in range(4):
            env.reset(seed=seed)
            pose = env.camera_poses[0]
            off = np.linalg.norm(red(env.render_view(pose)) - project(env.state()[:3], pose, env.fovy, SIDE, SIDE))
            is_red = env.inner.unwrapped.episodes % 2  # type: ignore[attr-defined]
            assert off < 1.5 if is_red else np.isnan(off), (seed, off)
