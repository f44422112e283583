"""Make the README's pictures of the arm from finished runs, probes and a report.

python train.py && python train.py arm_reach_state && python train.py probe arm-reach --out runs/probe
python train.py imagine arm-reach --out runs/imagine && python train.py probe arm-reach-random --out runs/probe-random
python train.py report benchmarks/results --tasks arm_reach_fixed,arm_reach_moving --out runs/report-arm-reach
python scripts/readme_pictures.py
"""

from __future__ import annotations

import shutil
from pathlib import Path

import imageio.v3 as iio
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "docs" / "images"
RUNS = ROOT / "runs"
#: Frames a second, and colours of the GIF: small enough for a README.
FPS, COLORS = 10, 96


def main() -> None:
    """Write docs/images."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    frames = iio.imread(RUNS / "arm_reach-seed0" / "episodes.mp4")
    palette = Image.fromarray(frames[0]).quantize(COLORS)
    pictures = [Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    first, *rest = pictures
    first.save(IMAGES / "arm_reach.gif", save_all=True, append_images=rest, duration=1000 // FPS, loop=0, optimize=True)
    shutil.copyfile(RUNS / "arm_reach-seed0" / "learning_curve.png", IMAGES / "arm_reach_curve.png")
    shutil.copyfile(RUNS / "arm_reach_state-seed0" / "learning_curve.png", IMAGES / "arm_reach_state.png")
    Image.open(RUNS / "probe" / "probe.png").save(IMAGES / "arm_reach_probe.png", optimize=True)
    random = Image.open(RUNS / "probe-random" / "probe.png")
    random.crop((0, 0, random.width, 14 + 5 * 130)).save(IMAGES / "arm_reach_random_probe.png", optimize=True)
    points = Image.open(RUNS / "probe" / "probe_points.png")
    points.crop((0, 0, points.width, points.height // 2)).save(IMAGES / "arm_reach_points.png", optimize=True)
    shutil.copyfile(RUNS / "report-arm-reach" / "learning_curves.png", IMAGES / "data_efficiency.png")
    for name in ("imagination", "imagination_algebra"):
        Image.open(RUNS / "imagine" / f"{name}.png").save(IMAGES / f"{name}.png", optimize=True)
    for path in sorted(IMAGES.iterdir()):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
