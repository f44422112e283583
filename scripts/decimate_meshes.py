"""Make the low-polygon copies of the Jaco's meshes that small renders draw (envs/assets/kinova/meshes_small).

    python scripts/decimate_meshes.py --faces 120

Needs ``fast-simplification`` (in the ``dev`` extra). The originals stay the physical geoms; see envs/kinova.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

KINOVA = Path(__file__).resolve().parent.parent / "envs" / "assets" / "kinova"
#: One triangle of a binary STL: normal, three corners, two unused bytes.
TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def read_stl(path: Path) -> NDArray[np.float32]:
    """Corners (T, 3, 3) of a binary STL file's triangles."""
    raw = path.read_bytes()
    return np.frombuffer(raw, TRIANGLE, count=int.from_bytes(raw[80:84], "little"), offset=84)["corners"].copy()


def write_stl(path: Path, corners: NDArray[np.float32]) -> None:
    """Write triangles (T, 3, 3) as a binary STL file, normals computed."""
    triangles = np.zeros(len(corners), TRIANGLE)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    triangles["normal"] = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    triangles["corners"] = corners
    path.write_bytes(b"\0" * 80 + len(corners).to_bytes(4, "little") + triangles.tobytes())


def main() -> None:
    """Decimate every mesh in ``meshes`` into ``meshes_small``."""
    import fast_simplification

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=int, default=120, help="triangles to keep of each mesh (default 120)")
    faces = parser.parse_args().faces
    target = KINOVA / "meshes_small"
    target.mkdir(exist_ok=True)
    for source in sorted((KINOVA / "meshes").glob("*.stl")):
        corners = read_stl(source)
        points, index = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
        triangles = index.reshape(-1, 3).astype(np.int32)
        keep = min(faces, len(triangles) - 1)
        points, triangles = fast_simplification.simplify(points, triangles, target_count=keep)
        write_stl(target / source.name, points[triangles])
        print(f"{source.name}: {len(corners)} -> {len(triangles)} triangles")


if __name__ == "__main__":
    main()
