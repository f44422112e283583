"""The process's one OpenGL context, lent for a picture at a time.

Other libraries draw in the same process: an environment inside a camera rig, or Gymnasium's ``RecordVideo`` around
one beside ours. Gymnasium makes its context current once and then takes it to be, so whoever draws in between has to
put it back; otherwise its pictures are black from then on, and nothing says so.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import mujoco

from gqn_rl.types import RenderError

HINT: Final = (
    "headless OpenGL is missing or broken. On Debian or Ubuntu: "
    "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libgl1; then set MUJOCO_GL=egl before Python starts "
    "(MUJOCO_GL=osmesa where EGL is not to be had). `gqn-rl doctor` tells more."
)


class _Context:
    """The process's one OpenGL context. Renderers borrow it; it goes with the process."""

    def __init__(self) -> None:
        self._context: Any = None
        self._pid = 0
        self._thread = 0
        self._left: list[Any] = []

    @property
    def inherited(self) -> bool:
        """Whether there is one, of a process that this one was forked from."""
        return self._context is not None and self._pid != os.getpid()

    @property
    def elsewhere(self) -> bool:
        """Whether there is one, of another thread."""
        return self._context is not None and self._thread != threading.get_ident()

    def leave(self, resources: Any) -> None:
        """Have the thread that may do it free MuJoCo's ``resources``, when it draws the next time."""
        self._left.append(resources)

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """It is current inside; afterwards that of another library is again, if one was, and EGL has both.

        Raises:
            RenderError: there is no OpenGL here, this process was forked from one that had rendered, or another thread
                of it has.
        """
        if self.inherited:
            raise RenderError(
                "this process was forked from one that had already rendered, which hangs OpenGL; "
                'start workers with the "forkserver" or "spawn" method'
            )
        # A context is one thread's until that one gives it up, which would cost every picture a fifth of its time.
        if self.elsewhere:
            raise RenderError(
                "another thread of this process has rendered, and OpenGL's context is that one's; draw in one thread, "
                "or in processes of their own"
            )
        with _egl_put_back(self._context):  # a new one also takes the place of what was current
            if self._context is None:
                self._context = _new_gl_context()
                self._pid, self._thread = os.getpid(), threading.get_ident()
            self._context.make_current()
            while self._left:
                self._left.pop().free()
            yield


@contextlib.contextmanager
def _egl_put_back(ours: Any) -> Iterator[None]:
    """Make current again what EGL has as such now, unless that is nothing, or the context ``ours``."""
    if "mujoco.egl" not in sys.modules:  # nobody has drawn with EGL; importing it would choose it for PyOpenGL
        yield
        return
    from OpenGL import EGL

    theirs = EGL.eglGetCurrentContext()
    if not theirs or (ours is not None and theirs.address == getattr(ours._context, "address", None)):
        yield
        return
    display = EGL.eglGetCurrentDisplay()
    surfaces = [EGL.eglGetCurrentSurface(which) for which in (EGL.EGL_DRAW, EGL.EGL_READ)]
    try:
        yield
    finally:
        EGL.eglMakeCurrent(display, *surfaces, theirs)


def _new_gl_context() -> Any:
    try:
        backend = _gl_backend()
        if not hasattr(backend, "_context"):
            backend._context = None  # of one that cannot be made, MuJoCo's own __del__ looks for it, and complains
        context = backend(64, 64)
        context.make_current()
    except Exception as error:  # each GL backend raises its own kinds
        raise RenderError(f"no OpenGL context ({type(error).__name__}: {error}); {HINT}") from error
    atexit.register(_free, context)  # before the interpreter takes apart what freeing needs
    return context


def _free(context: Any) -> None:
    """Free ``context``, unless another library, dm_control for one, has already ended OpenGL."""
    with contextlib.suppress(Exception):
        context.free()


def _gl_backend() -> Any:
    """MuJoCo's context class: the one MUJOCO_GL names, EGL on a Linux without a display, else the platform's own."""
    if sys.platform == "linux" and not os.environ.get("MUJOCO_GL") and not os.environ.get("DISPLAY"):
        from mujoco.egl import GLContext

        return GLContext
    return mujoco.GLContext


CONTEXT: Final = _Context()


def gl_description() -> dict[str, str]:
    """The OpenGL vendor, renderer and version in use; raises :class:`RenderError` where there is none."""
    with CONTEXT.current():
        from OpenGL import GL

        names = {"vendor": GL.GL_VENDOR, "renderer": GL.GL_RENDERER, "version": GL.GL_VERSION}
        return {name: GL.glGetString(code).decode() for name, code in names.items()}
