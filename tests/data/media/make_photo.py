"""Makes the demo's photo, 640 x 480 pixels: the sun over a lake between hills. `make_photo.py OUT`."""

from __future__ import annotations

import math
import sys

from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 640, 480


def main(out: str) -> None:
    picture = Image.new("RGB", (WIDTH, HEIGHT))
    draw = ImageDraw.Draw(picture)
    for row in range(HEIGHT):
        # dusk from blue to orange above the horizon, and back again in the water
        share = 1 - abs(row - 300) / 300
        draw.line((0, row, WIDTH, row), fill=(int(40 + 215 * share**2), int(60 + 110 * share), int(140 - 60 * share)))
    draw.ellipse((400, 220, 480, 300), fill=(255, 236, 170))
    for base, height, colour in ((0.4, 90, (70, 60, 90)), (1.9, 60, (45, 50, 60)), (3.7, 34, (25, 40, 35))):
        ridge = [
            (x, 300 - height * (0.6 + 0.4 * math.sin(base + x / 71) * math.cos(x / 29 + base))) for x in range(641)
        ]
        draw.polygon([(0, 301), *ridge, (WIDTH, 301)], fill=colour)
    for row in range(306, 420, 9):
        # the sun's path on the waves
        width = 12 + (row - 300) // 3
        sway = 6 * math.sin(row)
        draw.line((440 - width + sway, row, 440 + width + sway, row), fill=(250, 210, 140), width=3)
    picture.filter(ImageFilter.GaussianBlur(1)).save(out, "JPEG", quality=88)


if __name__ == "__main__":
    main(sys.argv[1])
