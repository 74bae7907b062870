"""Makes the parity cases of metrics_test.go with scikit-image, numpy and Pillow: python3 make.py

Every case is a pair of small PNGs with what an independent implementation says about them.
"""
import json
import numpy as np
import skimage
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage.feature import match_template
from skimage.metrics import peak_signal_noise_ratio as psnr
from skimage.metrics import structural_similarity as ssim

rng = np.random.default_rng(20260101)


def scene(h, w):
    y, x = np.mgrid[0:h, 0:w].astype(float)
    r = 120 + 90 * np.sin(x / 7) * np.cos(y / 11)
    g = 40 + 2.2 * x % 200
    b = np.where((x - w / 2) ** 2 + (y - h / 2) ** 2 < (h / 3) ** 2, 220, 60) + 0 * x
    return np.clip(np.stack([r, g, b], -1), 0, 255)


def u8(a):
    return np.clip(np.round(a), 0, 255).astype(np.uint8)


base = scene(48, 67)
cases = {
    "noise": (base, base + rng.normal(0, 8, base.shape)),
    "blur": (base, gaussian_filter(base, (1.2, 1.2, 0))),
    "gain": (base, base * 1.1),
    "shift": (base, np.roll(base, 2, axis=1)),
    "foreign": (base, scene(48, 67)[::-1, ::-1] * 0.6 + 20),
}
out = {"scikit-image": skimage.__version__, "numpy": np.__version__, "cases": []}
kw = dict(gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255)
for name, (a, b) in cases.items():
    a, b = u8(a), u8(b)
    ia, ib = Image.fromarray(a, "RGB"), Image.fromarray(b, "RGB")
    ia.save("base.png")
    ib.save(name + ".png")
    ga, gb = np.array(ia.convert("L")), np.array(ib.convert("L"))
    d = np.abs(a.astype(int) - b.astype(int))
    # One cell of 20x24 of the base, searched in the whole of the other picture.
    t = match_template(gb.astype(float), ga[10:34, 20:40].astype(float))
    win = t[10 - 6:10 + 7, 20 - 6:20 + 7]
    boxes = np.abs((ga.astype(float) - gb)[:48, :64].reshape(6, 8, 8, 8).mean(axis=(1, 3)))
    out["cases"].append({
        "name": name,
        "psnr_rgb": float(psnr(a, b, data_range=255)),
        "ssim_gray": float(ssim(ga, gb, **kw)),
        "ssim_rgb": float(ssim(a, b, channel_axis=2, **kw)),
        "max_diff": int(d.max()),
        "mean_abs": float(d.mean()),
        "luma_mean": float(gb.mean()),
        "luma_stddev": float(gb.std()),
        "tile_mad_0": float(boxes[:4, :4].mean()),
        "cell_ncc": float(win.max()),
        "sha256_rgba": __import__("hashlib").sha256(ib.convert("RGBA").tobytes()).hexdigest(),
    })
json.dump(out, open("expected.json", "w"), indent=1)
