"""Rate of the imgaug pipelines that SeqCLR and SemiMTR published, on one core. Runs in an environment of its own, which has imgaug and numpy below 1.24:

    python -m venv peer
    peer/bin/pip install imgaug "numpy<1.24" "scipy<1.12" "scikit-image<0.22" "opencv-python<4.9" "shapely<2.1"
    peer/bin/python benchmarks/imgaug_views.py IMAGES.npy

Prints images/s by view as JSON. IMAGES.npy: (n, height, width, 3) uint8, as benchmarks/views.py --imgaug peer/bin/python gives them.
"""

import json
import sys
import time
from collections.abc import Callable

import cv2
import imgaug
import imgaug.augmenters as iaa
import numpy as np

BATCHES = 5


def pipelines() -> dict[str, iaa.Augmenter]:
    """As published: Aberdam et al., CVPR 2021, and Aberdam et al., 2022."""
    sharpen = iaa.Sharpen(alpha=(0.0, 0.5), lightness=(0.0, 0.5))
    return {
        "seqclr": iaa.SomeOf((1, None), [
            iaa.LinearContrast((0.5, 1.0)), iaa.GaussianBlur((0.5, 1.5)), sharpen, iaa.Crop(percent=((0, 0.4), 0, (0, 0.4), 0)),
            iaa.Crop(percent=(0, (0, 0.02), 0, (0, 0.02))), iaa.ElasticTransformation(alpha=(0, 0.8), sigma=0.25), iaa.PerspectiveTransform((0.01, 0.02)),
        ], random_order=True),
        "semimtr": iaa.Sequential([
            iaa.Invert(0.5),
            iaa.OneOf([iaa.ChannelShuffle(0.35), iaa.Grayscale((0.0, 1.0)), iaa.KMeansColorQuantization(), iaa.HistogramEqualization(),
                       iaa.Dropout((0.0, 0.2), per_channel=0.5), iaa.GammaContrast((0.5, 2.0)), iaa.MultiplyBrightness((0.5, 1.5)),
                       iaa.AddToHueAndSaturation((-50, 50), per_channel=True), iaa.ChangeColorTemperature((1100, 10000))]),
            iaa.OneOf([sharpen, iaa.OneOf([iaa.GaussianBlur((0.5, 1.5)), iaa.AverageBlur((2, 6)), iaa.MedianBlur((3, 7)), iaa.MotionBlur(5)])]),
            iaa.OneOf([iaa.Emboss((0.0, 1.0), strength=(0.5, 1.5)), iaa.AdditiveGaussianNoise(scale=(0, 0.2 * 255)), iaa.ImpulseNoise(0.1),
                       iaa.MultiplyElementwise((0.5, 1.5))])]),
    }


def seconds(work: Callable[[], object]) -> float:
    """The median of the thread's own time."""
    work()
    times = []
    for _ in range(BATCHES):
        start = time.thread_time()
        work()
        times.append(time.thread_time() - start)
    return sorted(times)[BATCHES // 2]


def main() -> None:
    """Time each pipeline on the images of the file, all at once and one by one as data loaders do; the faster counts."""
    cv2.setNumThreads(1)
    imgaug.seed(1)
    images, rates = np.load(sys.argv[1]), {}
    for name, augmenter in pipelines().items():
        ways = [lambda augmenter=augmenter: [augmenter(image=image) for image in images]]
        if name == "seqclr":  # imgaug 0.4 cannot change the colour temperature of several images at once
            ways.append(lambda augmenter=augmenter: augmenter(images=images))
        rates[name] = len(images) / min(map(seconds, ways))
    print(json.dumps(rates))


if __name__ == "__main__":
    main()
