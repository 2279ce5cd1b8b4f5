"""Makes small images in many formats and modes, and what Pillow (13.0.0) decodes of them: NAME and NAME.expected.png.

Run once; the results are committed, and no test needs Python. Transparency is laid over white and EXIF orientation
applied, as mils-media documents it.
"""

import pathlib

import numpy as np
from PIL import Image, ImageOps

HERE = pathlib.Path(__file__).parent / "images"


def main():
    HERE.mkdir(exist_ok=True)
    y, x = np.mgrid[0:32, 0:48]
    rgb = np.stack([x * 5, y * 7, 255 - x * 2 - y * 3], -1).clip(0, 255).astype(np.uint8)
    # Asymmetric, so that every orientation is another picture.
    rgb[4:10, 4:20] = (250, 30, 30)
    image = Image.fromarray(rgb)
    alpha = Image.fromarray((x * 5).clip(0, 255).astype(np.uint8))
    rgba = image.copy()
    rgba.putalpha(alpha)
    grey = image.convert("L")
    grey_alpha = Image.merge("LA", (grey, alpha))
    made = {
        "rgb.png": (image, {}), "rgba.png": (rgba, {}), "grey.png": (grey, {}), "grey-alpha.png": (grey_alpha, {}),
        "palette.png": (image.quantize(32), {}), "one-bit.png": (image.convert("1"), {}),
        "rgb.jpg": (image, dict(quality=95, subsampling=0)), "grey.jpg": (grey, dict(quality=95)),
        "cmyk.jpg": (image.convert("CMYK"), dict(quality=95)), "progressive.jpg": (image, dict(quality=95, progressive=True)),
        "rgb.gif": (image.quantize(64), {}), "rgb.bmp": (image, {}), "rgb.tiff": (image, {}),
        "cmyk.tiff": (image.convert("CMYK"), {}), "rgb.webp": (image, dict(lossless=True)),
        "rgba.webp": (rgba, dict(lossless=True, exact=True)),
    }
    palette = image.quantize(32)
    made |= {
        "palette-alpha.png": (palette, dict(transparency=palette.getpixel((6, 6)))),
        "colour-key.png": (image, dict(transparency=(250, 30, 30))),
        "grey-key.png": (grey, dict(transparency=grey.getpixel((6, 6)))),
        "lossy.webp": (image, dict(quality=95)), "lossy-alpha.webp": (rgba, dict(quality=95, exact=True)),
        "grey.tiff": (grey, {}), "one-bit.tiff": (image.convert("1"), {}), "lzw.tiff": (image, dict(compression="tiff_lzw")),
        "rgba.tiff": (rgba, dict(compression="tiff_adobe_deflate")),
        "palette.bmp": (palette, {}), "grey.bmp": (grey, {}), "one-bit.bmp": (image.convert("1"), {}),
        "rgb.ppm": (image, {}), "grey.pgm": (grey, {}), "one-bit.pbm": (image.convert("1"), {}),
        "transparent.gif": (palette, dict(transparency=palette.getpixel((6, 6)))),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        made[f"orientation-{orientation}.jpg"] = (image, dict(quality=95, subsampling=0, exif=exif))
        if orientation in (5, 6):
            made[f"orientation-{orientation}.png"] = (image, dict(exif=exif))
            made[f"orientation-{orientation}.webp"] = (image, dict(lossless=True, exif=exif))
            made[f"orientation-{orientation}.tiff"] = (image, dict(exif=exif))
    for name, (picture, options) in made.items():
        picture.save(HERE / name, **options)
    deep = (np.array(grey).astype(np.uint16) << 8) | 0x55
    for kind in ("png", "tiff"):
        # Pillow does not scale 16 bits when it converts them.
        Image.fromarray(deep).save(HERE / f"deep-grey.{kind}")
        grey.convert("RGB").save(HERE / f"deep-grey.{kind}.expected.png")
    frames = [image.quantize(64), Image.new("RGB", image.size, (0, 0, 0)).quantize(4)]
    frames[0].save(HERE / "animated.gif", save_all=True, append_images=frames[1:], duration=100)
    # The first frame is partly transparent, so that what lies behind it shows.
    frames = [rgba, Image.new("RGBA", image.size, (0, 0, 0, 255))]
    for name, options in (("animated.png", {}), ("animated.webp", dict(lossless=True, exact=True, background=(9, 99, 9, 255)))):
        frames[0].save(HERE / name, save_all=True, append_images=frames[1:], duration=100, **options)
    for name in [*made, "animated.gif", "animated.png", "animated.webp"]:
        decoded = ImageOps.exif_transpose(Image.open(HERE / name))
        if decoded.has_transparency_data:
            over = Image.new("RGBA", decoded.size, (255, 255, 255, 255))
            decoded = Image.alpha_composite(over, decoded.convert("RGBA"))
        decoded.convert("RGB").save(HERE / f"{name}.expected.png")


if __name__ == "__main__":
    main()
