"""Makes the unusual picture files of inspect_test.go with Pillow 13: python3 make.py"""
import os
from PIL import Image

os.chdir(os.path.dirname(os.path.abspath(__file__)))
rgb = Image.new("RGB", (24, 16))
rgb.putdata([(x * 10, y * 15, (x * y) % 256) for y in range(16) for x in range(24)])
other = rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
turned = Image.Exif()
turned[0x0112] = 6

rgb.save("plain.png")
rgb.save("plain.jpg", quality=90)
rgb.save("plain.webp", lossless=True)
rgb.convert("CMYK").save("cmyk.jpg", quality=90)
rgb.convert("L").save("grey.jpg", quality=90)
rgb.save("turned.jpg", quality=90, exif=turned)
rgb.save("turned.png", exif=turned)
rgb.save("turned.webp", lossless=True, exif=turned)
rgb.quantize(16).save("palette.png")
rgb.convert("RGBA").save("alpha.png")
half = rgb.convert("RGBA")
half.putalpha(128)
half.save("alpha.webp", lossless=True)
half.save("alpha-lossy.webp", quality=80)
rgb.save("animated.webp", save_all=True, append_images=[other], duration=100)
rgb.save("animated.png", save_all=True, append_images=[other], duration=100)
