"""Copy screenshots of the browser tests into the pictures of the documents, smaller and in few colours.

Run by `make images` after `make test`, which leaves the screenshots. One that is not there, as its test did not run,
leaves its picture as it is.
"""

import sys
from pathlib import Path

from PIL import Image

IMAGES = Path(__file__).parent / "images"
SCREENSHOTS = Path(__file__).parents[1] / "screenshots"
PICTURES = {
    "asset-graph": "1-asset-graph",
    "leaderboard-plot": "plot-model_leaderboard-error_by_stops_ahead",
    "live": "live-for-documents",
    "page": "5-the-page",
}
"""Screenshot that each picture is made of."""
SIZE = (1200, 800)
"""Largest width and height in pixels; what is farther below on a longer page is cut off."""
COLOURS = 256


def main(screenshots: Path, images: Path) -> None:
    """Make the picture of each screenshot that there is, and print its size."""
    for name, screenshot in PICTURES.items():
        source, picture = screenshots / f"{screenshot}.png", images / f"{name}.png"
        if not source.exists():
            print(f"{picture.name} is left as it is: there is no {source}; the browser tests make it", file=sys.stderr)
            continue
        reduce_screenshot(Image.open(source)).save(picture, optimize=True)
        print(f"{picture.name}: {picture.stat().st_size:,} bytes")


def reduce_screenshot(screenshot: Image.Image) -> Image.Image:
    """Return a screenshot no larger than `SIZE`, with a palette of colours."""
    width, height = screenshot.size
    scale = min(1.0, SIZE[0] / width)
    resized = screenshot.convert("RGB").resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
    cut = resized.crop((0, 0, resized.width, min(resized.height, SIZE[1])))
    return cut.quantize(COLOURS, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


if __name__ == "__main__":
    main(*([Path(argument) for argument in sys.argv[1:]] or [SCREENSHOTS, IMAGES]))
