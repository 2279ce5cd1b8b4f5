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
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        made[f"orientation-{orientation}.jpg"] = (image, dict(quality=95, subsampling=0, exif=exif))
    for name, (picture, options) in made.items():
        picture.save(HERE / name, **options)
    deep = (np.array(grey).astype(np.uint16) << 8) | 0x55
    Image.fromarray(deep).save(HERE / "deep-grey.png")
    (HERE / "deep-grey.png.expected.png").unlink(missing_ok=True)
    grey.convert("RGB").save(HERE / "deep-grey.png.expected.png")
    frames = [image.quantize(64), Image.new("RGB", image.size, (0, 0, 0)).quantize(4)]
    frames[0].save(HERE / "animated.gif", save_all=True, append_images=frames[1:], duration=100)
    for name in [*made, "animated.gif"]:
        decoded = ImageOps.exif_transpose(Image.open(HERE / name))
        if decoded.mode in ("RGBA", "LA", "PA"):
            over = Image.new("RGBA", decoded.size, (255, 255, 255, 255))
            decoded = Image.alpha_composite(over, decoded.convert("RGBA"))
        decoded.convert("RGB").save(HERE / f"{name}.expected.png")


if __name__ == "__main__":
    main()
