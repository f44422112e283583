"""Somebody else's MuJoCo environment, seen from outside: its model and data, where its parts are, and its pictures.

Nothing here changes what the environment goes through. Pictures are taken of a copy of its data, and what a picture
needs of its model (field of view, what is hidden) is put back at once.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gqn_rl.envs.renderer import Quality, SceneRenderer

#: Packages whose environments are found by their bare ids, and how these ids begin.
PLUGINS: Final[Mapping[str, tuple[str, ...]]] = {
    "gymnasium_robotics": ("Fetch", "Hand", "Adroit", "PointMaze", "AntMaze", "FrankaKitchen"),
    "shimmy": ("dm_control/",),
}
#: MuJoCo's own viewer shows geoms and sites of these groups (XML reference, body/geom/group).
SHOWN_GROUPS: Final = (0, 1, 2)
_HIDDEN_GROUP: Final = 5

#: What an element of a model may be: ``geom:NAME``, ``site:NAME`` or ``body:NAME``.
_KINDS: Final = {
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
    "site": mujoco.mjtObj.mjOBJ_SITE,
    "body": mujoco.mjtObj.mjOBJ_BODY,
}


def make_inner(env_id: str, env_kwargs: Mapping[str, Any]) -> gym.Env[Any, Any]:
    """The environment that gets cameras; raises Gymnasium's errors, and those of :func:`import_plugin`."""
    import_plugin(env_id)
    # Gymnasium's checker would complain of observations that no policy here ever sees.
    return gym.make(env_id, disable_env_checker=True, **env_kwargs)


def plugin_of(env_id: str) -> str | None:
    """Which of :data:`PLUGINS` registers ``env_id``, if any does."""
    return next((package for package, beginnings in PLUGINS.items() if env_id.startswith(beginnings)), None)


def import_plugin(env_id: str) -> None:
    """Import the package that registers ``env_id``, where it is one of :data:`PLUGINS`.

    Raises:
        ValueError: that package is not installed; the message says how to install it.
    """
    package = plugin_of(env_id)
    if package is None or env_id in gym.registry:
        return
    try:
        # Both print and warn about environments that nobody asked for.
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{env_id} is of {package} ({error}); pip install 'gqn-rl[robots]'") from error


def simulation(env: gym.Env[Any, Any]) -> tuple[mujoco.MjModel, mujoco.MjData] | None:
    """The MuJoCo model and data of ``env``, or None; Gymnasium's way (``model``, ``data``) and dm_control's.

    They are to be asked for again after every reset: some environments compile a new model for each episode.
    """
    inner = env.unwrapped
    model, data = getattr(inner, "model", None), getattr(inner, "data", None)
    if not isinstance(model, mujoco.MjModel) or not isinstance(data, mujoco.MjData):
        physics = getattr(inner, "physics", None)
        model = getattr(getattr(physics, "model", None), "ptr", None)
        data = getattr(getattr(physics, "data", None), "ptr", None)
    if not isinstance(model, mujoco.MjModel) or not isinstance(data, mujoco.MjData):
        return None
    return model, data


class Stage:
    """What the cameras see of ``env``.

    Args:
        env: an environment whose ``unwrapped`` has a MuJoCo model and data.
        hide: elements that are not drawn: ``geom:NAME``, ``site:NAME``, or ``body:NAME`` for all geoms and sites of a
            body. Handles that a simulation pulls a robot by (mocap bodies tied to it by an equality constraint) never
            are.
        show: elements that are drawn although MuJoCo's viewer would leave them out, because of their group.

    Raises:
        ValueError: there is no MuJoCo model, an element does not exist (the message names the valid ones), or nothing
            is visible.
    """

    def __init__(self, env: gym.Env[Any, Any], hide: Sequence[str] = (), show: Sequence[str] = ()) -> None:
        self._env = env
        self._hide, self._show = tuple(hide), tuple(show)
        self._model: mujoco.MjModel | None = None
        if simulation(env) is None:
            raise ValueError(
                f"{type(env.unwrapped).__name__} has no MuJoCo model and data to put cameras in; an environment that "
                "renders by itself gets its view through gqn_rl.view_adapter.ViewAdapter"
            )
        self.look()
        if not any(elements.any() for elements in self._visible_at_first):
            has = self.model.ngeom + self.model.nsite
            raise ValueError(
                "there is nothing to see: the model has no "
                + ("visible geoms or sites; name some in show" if has else "geoms and no sites; give its bodies some")
            )

    def look(self) -> mujoco.MjData:
        """This moment: a copy of the environment's data, with the positions of everything up to date."""
        found = simulation(self._env)
        assert found is not None
        model, data = found
        if model is not self._model:
            self._dress(model)
        placed, at = self._place_goal(model, data)
        seen = self._seen
        mujoco.mj_copyData(seen, model, data)
        seen.qpos[placed] = at
        for update in (mujoco.mj_kinematics, mujoco.mj_comPos, mujoco.mj_camlight, mujoco.mj_flex, mujoco.mj_tendon):
            update(model, seen)
        return seen

    @property
    def model(self) -> mujoco.MjModel:
        """The model as of the last :meth:`look`."""
        assert self._model is not None
        return self._model

    def _place_goal(self, model: mujoco.MjModel, data: mujoco.MjData) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Let environments of gymnasium-robotics put their marks where the goal is, which they do when they render.

        Returns which numbers of ``qpos`` are a mark's, and what they are to be: some marks are bodies.
        """
        mark = getattr(self._env.unwrapped, "_render_callback", None)
        if not callable(mark):
            return np.array([], np.int64), np.array([])
        before, places = self._kept, model.site_pos.copy()
        mujoco.mj_copyData(before, model, data)
        mark()
        # It also calls mj_forward, after which the simulation would go on a little differently.
        moved = (model.site_pos != places).any(axis=1)
        now = data.site_xpos[moved].copy()
        placed = np.flatnonzero(data.qpos != before.qpos)
        at = data.qpos[placed].copy()
        mujoco.mj_copyData(data, model, before)
        data.site_xpos[moved] = now  # the mark's next place is reckoned from there
        return placed, at

    def _dress(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._seen, self._kept = mujoco.MjData(model), mujoco.MjData(model)
        geoms = np.isin(model.geom_group, SHOWN_GROUPS)
        sites = np.isin(model.site_group, SHOWN_GROUPS)
        handles = _handles(model)
        geoms &= ~np.isin(model.geom_bodyid, handles)
        sites &= ~np.isin(model.site_bodyid, handles)
        for elements, drawn in ((self._show, True), (self._hide, False)):
            for element in elements:
                kind, index = find_element(model, element)
                if kind in ("geom", "body"):
                    geoms[index if kind == "geom" else model.geom_bodyid == index] = drawn
                if kind in ("site", "body"):
                    sites[index if kind == "site" else model.site_bodyid == index] = drawn
        self._geoms, self._sites = geoms, sites
        self._visible_at_first = self._visible()

    def _visible(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Which geoms and sites are to be seen now: an environment may let them appear and vanish."""
        model = self.model
        geoms = self._geoms & _opaque(model, model.geom_rgba, model.geom_matid)
        return geoms, self._sites & _opaque(model, model.site_rgba, model.site_matid)

    def position(self, element: str, seen: mujoco.MjData) -> NDArray[np.float64]:
        """Where ``element`` is, world metres (3,); ``seen`` is what :meth:`look` returned."""
        kind, index = find_element(self.model, element)
        places = {"geom": seen.geom_xpos, "site": seen.site_xpos, "body": seen.xpos}[kind]
        return places[index].copy()

    def visible_places(self, seen: mujoco.MjData) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centres (N, 3) and bounding radii (N,) of everything that has an end, and was visible at first; metres."""
        geoms, sites = self._visible_at_first
        geoms = geoms & (self.model.geom_rbound > 0)  # 0 is a plane's
        centres = np.concatenate([seen.geom_xpos[geoms], seen.site_xpos[sites]])
        return centres, np.concatenate([self.model.geom_rbound[geoms], self.model.site_size[sites].max(axis=1)])

    def first_hit(
        self, seen: mujoco.MjData, origin: NDArray[np.float64], targets: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Distances (N,) from ``origin`` (3,) to what is hit first towards ``targets`` (N, 3); inf for nothing."""
        rays = targets - origin
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        only, hit = np.array([1, 0, 0, 0, 0, 0], np.uint8), np.array([-1], np.int32)
        with self.dressed():
            found = [mujoco.mj_ray(self.model, seen, origin, ray, only, 1, -1, hit) for ray in rays]
        return np.where(np.array(found) < 0, np.inf, found)

    @contextlib.contextmanager
    def dressed(self, fovy: float | None = None) -> Iterator[None]:
        """The model as pictures want it, for as long as this context lasts: group 0 is what is visible."""
        model = self.model
        quality, size = model.vis.quality, model.vis.global_
        groups = model.geom_group.copy(), model.site_group.copy()
        names = ("offsamples", "numslices", "numstacks", "numquads", "shadowsize")
        qualities = {name: getattr(quality, name) for name in names}
        sizes = {name: getattr(size, name) for name in ("fovy", "orthographic", "offheight", "offwidth")}
        geoms, sites = self._visible()
        model.geom_group[:], model.site_group[:] = (np.where(seen, 0, _HIDDEN_GROUP) for seen in (geoms, sites))
        if fovy is not None:
            size.fovy, size.orthographic = fovy, 0
        try:
            yield
        finally:
            model.geom_group[:], model.site_group[:] = groups
            for name, value in qualities.items():
                setattr(quality, name, value)
            for name, value in sizes.items():
                setattr(size, name, value)


class StageRenderer:
    """Draws a stage from any pose in the world; ``views`` and ``quality`` are those of :class:`SceneRenderer`."""

    def __init__(self, stage: Stage, height: int, width: int, *, fovy: float, quality: Quality, views: int = 1) -> None:
        self._stage, self._fovy = stage, fovy
        self._size, self._quality, self._views = (height, width), quality, views
        self._model: mujoco.MjModel | None = None
        self._renderer: SceneRenderer | None = None

    def render(self, seen: mujoco.MjData, poses: ArrayLike) -> NDArray[np.uint8]:
        """Pictures (K, H, W, 3) uint8 of ``seen`` from ``poses`` (K, 5)."""
        with self._stage.dressed(self._fovy):
            if self._renderer is None or self._model is not self._stage.model:
                self.close()
                self._model = self._stage.model
                self._renderer = _GuestRenderer(self._model, *self._size, quality=self._quality, views=self._views)
            return self._renderer.render(seen, poses)

    def close(self) -> None:
        """Free the OpenGL resources; rendering again makes them anew."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


class _GuestRenderer(SceneRenderer):
    """Draws the sites of group 0 too: goals often are sites."""

    def __init__(self, model: mujoco.MjModel, height: int, width: int, *, quality: Quality, views: int) -> None:
        super().__init__(model, height, width, quality=quality, views=views, geom_groups=(0,))
        flags = self._scene.flags.copy()
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + model.nsite + 1000)  # 1000: tendons, skins, marks
        self._scene.flags[:] = flags
        self._option.sitegroup[0] = 1


def find_element(model: mujoco.MjModel, element: str) -> tuple[str, int]:
    """Kind and number of ``geom:NAME``, ``site:NAME`` or ``body:NAME``; raises ``ValueError`` naming the valid ones."""
    kind, _, name = element.partition(":")
    if kind not in _KINDS or not name:
        raise ValueError(f"an element of a model is geom:NAME, site:NAME or body:NAME, got {element!r}")
    index = mujoco.mj_name2id(model, _KINDS[kind], name)
    if index < 0:
        count = {"geom": model.ngeom, "site": model.nsite, "body": model.nbody}[kind]
        names = filter(None, (mujoco.mj_id2name(model, _KINDS[kind], i) for i in range(count)))
        raise ValueError(f"the model has no {kind} {name!r}; valid: {', '.join(names) or f'no {kind} has a name'}")
    return kind, index


def _handles(model: mujoco.MjModel) -> list[int]:
    """Mocap bodies that an equality constraint ties to another body."""
    tied: set[int] = set()
    for kind, of_bodies, *ends in zip(
        model.eq_type, model.eq_objtype == mujoco.mjtObj.mjOBJ_BODY, model.eq_obj1id, model.eq_obj2id, strict=True
    ):
        if int(kind) in (mujoco.mjtEq.mjEQ_WELD, mujoco.mjtEq.mjEQ_CONNECT) and of_bodies:
            tied.update(int(end) for end in ends if model.body_mocapid[end] >= 0)
    return sorted(tied)


def _opaque(model: mujoco.MjModel, colors: NDArray[Any], materials: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether anything is to be seen of elements with ``colors`` (N, 4) and ``materials`` (N,), -1 for none.

    A material's colour counts where the element's own is MuJoCo's default (XML reference, body/geom/rgba).
    """
    alpha = colors[:, 3].copy()
    of_material = (materials >= 0) & (colors == np.array([0.5, 0.5, 0.5, 1.0], np.float32)).all(axis=1)
    alpha[of_material] = model.mat_rgba[materials[of_material], 3]
    return alpha > 0
