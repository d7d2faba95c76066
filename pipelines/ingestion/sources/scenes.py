"""Scene images whose annotations say where text stands, cropped to words.

One row for every annotated region, in the order of the annotations: the crop with its text; "filtered" as "marked as
ignore" (without image) where the annotators wrote `###` and the like; or a problem: "degenerate region", "region outside
the image", "malformed annotation line", "missing file" and what else can be wrong with a file. A key is
SOURCE/IMAGE/NUMBER, IMAGE being the image's name without suffix (in sets of one file for all images, its path) and
NUMBER the region's in its image, from 001. Formats: annotations*.py; places of images: scene_images.py.
"""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipelines.corpus import storage
from pipelines.errors import BadInput
from pipelines.ingestion.sources.annotations import Region, ctw1500_xml, read_text_file
from pipelines.ingestion.sources.annotations_json import read_json
from pipelines.ingestion.sources.annotations_mat import read_synthtext, totaltext_mat
from pipelines.ingestion.sources.crops import BadRegion, crop_region, decode_scene, encode_crop
from pipelines.ingestion.sources.files import is_image_name, printable
from pipelines.ingestion.sources.row import Row
from pipelines.ingestion.sources.scene_formats import FORMATS, WHOLE_SETS, Annotations, locate, matches
from pipelines.ingestion.sources.scene_images import find_images, level

__all__ = ["SceneSource", "matches", "open_scenes"]

PREFIX = re.compile(r"^(poly_)?gt_", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Regions:
    """The regions of one image, packed: SynthText has seven million of them."""

    points: np.ndarray  # (points of all regions, 2) float32
    ends: np.ndarray  # (regions,) int32, where each region's points end
    texts: tuple[str | None, ...]
    ignored: bytes  # one byte for each region
    problems: dict[int, tuple[str, str]]  # number of the region, from 0: problem and detail

    def __len__(self) -> int:
        return len(self.texts)

    def __iter__(self) -> Iterator[Region]:
        start = 0
        for index, (end, text) in enumerate(zip(self.ends.tolist(), self.texts, strict=True)):
            yield Region(self.points[start:end], text, bool(self.ignored[index]), *self.problems.get(index, (None, "")))
            start = end


def pack(regions: list[Region]) -> Regions:
    """The regions in less memory."""
    points = [np.empty((0, 2), np.float32) if item.points is None else item.points for item in regions]
    return Regions(np.concatenate([np.empty((0, 2), np.float32), *points]), np.cumsum([len(item) for item in points], dtype=np.int32),
                   tuple(item.text for item in regions), bytes(item.ignore for item in regions),
                   {index: (item.problem, item.detail) for index, item in enumerate(regions) if item.problem is not None})


class Scene(NamedTuple):
    """One image and its regions."""

    key: str
    image: str | None  # path or URI
    missing: tuple[str, str]  # why there is no image: problem and detail
    regions: Regions


@dataclass(frozen=True)
class ScenePiece:
    """Whole scenes of a source, so that each image is decoded once."""

    name: str
    scenes: tuple[Scene, ...]
    vertical: bool

    @property
    def rows(self) -> int:
        """Regions, known beforehand."""
        return sum(len(scene.regions) for scene in self.scenes)

    def read(self) -> Iterator[Row]:
        """One row for each region. Memory holds one image."""
        for scene in self.scenes:
            yield from self._read_scene(scene)

    def _read_scene(self, scene: Scene) -> Iterator[Row]:
        opened = None
        for number, region in enumerate(scene.regions, start=1):
            key = f"{self.name}/{scene.key}/{number:03d}"
            if region.problem is not None:
                yield Row(key, None, region.text, region.problem, region.detail)
            elif region.ignore:
                yield Row(key, None, region.text, "marked as ignore", region.text or "", filtered=True)
            else:
                opened = opened or _open_image(scene)
                yield self._crop(key, region, opened)

    def _crop(self, key: str, region: Region, opened: "Opened") -> Row:
        if opened.picture is None:
            return Row(key, None, region.text, opened.problem, opened.detail)
        turn = self.vertical and (region.text is None or len(region.text) > 1)
        try:
            crop = crop_region(opened.picture, region.points, turn)
        except BadRegion as problem:
            return Row(key, None, region.text, problem.problem, problem.detail)
        return Row(key, encode_crop(crop, opened.data), region.text)


class Opened(NamedTuple):
    """A scene image, decoded, or why it is not."""

    picture: np.ndarray | None
    data: bytes
    problem: str = ""
    detail: str = ""


def _open_image(scene: Scene) -> Opened:
    if scene.image is None:
        return Opened(None, b"", *scene.missing)
    try:
        data = storage.read_bytes(scene.image)
    except OSError as problem:
        return Opened(None, b"", "unreadable file", f"{scene.image}: {problem.strerror or problem}")
    picture, problem = decode_scene(data)
    return Opened(picture, data, problem or "", "" if problem is None else f"{scene.image}: {len(data)} bytes from {data[:8].hex()}")


@dataclass(frozen=True)
class SceneSource:
    """A set of scene images with annotated regions. Holds all annotations: about 100 bytes a region."""

    name: str
    path: str
    kind: str  # the format
    scenes: tuple[Scene, ...]
    fingerprint: str
    vertical: bool = False
    exact: bool = True

    def count(self) -> int:
        """Regions, whatever becomes of them."""
        return sum(len(scene.regions) for scene in self.scenes)

    def image_folders(self) -> set[str]:
        """The folders that its images lie in: these are no sources of unlabeled images."""
        return {posixpath.dirname(scene.image) for scene in self.scenes if scene.image is not None}

    def pieces(self, size: int) -> Iterator[ScenePiece]:
        """Pieces of whole images: as many as it takes to reach `size` regions."""
        scenes, rows = [], 0
        for scene in self.scenes:
            scenes.append(scene)
            rows += len(scene.regions)
            if rows >= size:
                yield ScenePiece(self.name, tuple(scenes), self.vertical)
                scenes, rows = [], 0
        if scenes:
            yield ScenePiece(self.name, tuple(scenes), self.vertical)


def open_scenes(name: str, path: str, format: str | None = None, *, vertical: bool = False) -> SceneSource:
    """Read the annotations at `path`, a path or URI, and find their images.

    format: what `matches` said. With `vertical`, crops higher than 1.5 times their width whose text has several
    characters, or is unknown, are turned by 90 degrees anticlockwise, for recognizers of horizontal text; without, they
    stay as they stand. EXIF orientation is not applied: annotations are in stored pixels. Raises BadInput if the path
    is no such set, or has no region.
    """
    path = storage.absolute(path)
    annotations = locate(path)
    if annotations is None or format not in (None, annotations.format):
        found = "no such annotations" if annotations is None else annotations.format
        raise BadInput(f"{path}: expected scene annotations ({format or ', '.join(FORMATS)}), found {found}: "
                       "name the file or the folder with the annotations")
    digest = hashlib.sha256(f"{annotations.format} {vertical}\n".encode())
    annotated = [(wanted, regions) for wanted, regions in _annotated(annotations, digest) if len(regions)]
    scenes = tuple(_scenes(annotations, annotated, digest))
    if not scenes:
        raise BadInput(f"{path}: expected annotated regions ({annotations.format}), found none: "
                       "name the file or the folder with the annotations")
    return SceneSource(name, path, annotations.format, scenes, digest.hexdigest(), vertical)


def _annotated(annotations: Annotations, digest) -> Iterator[tuple[str, Regions]]:
    """(what names the image, its regions): the image's file name, or the annotation file's."""
    stamps = level(annotations.folder).files
    for file in annotations.files:
        path = storage.join(annotations.folder, file)
        if annotations.format == "synthtext":  # hundreds of megabytes: its size and time of change must do
            digest.update(repr((file, *stamps[file])).encode())
            yield from ((image, pack(regions)) for image, regions in read_synthtext(path))
            continue
        data = storage.read_bytes(path)
        digest.update(f"{file} {len(data)}\n".encode("utf-8", "surrogateescape") + data)
        if annotations.format in WHOLE_SETS:
            yield from ((image, pack(regions)) for image, regions in read_json(data, path, annotations.format))
        else:
            image, regions = _read_file(data, file, annotations.format)
            yield image or file, pack(regions)


def _read_file(data: bytes, file: str, format: str) -> tuple[str | None, list[Region]]:
    if format == "ctw1500-xml":
        return ctw1500_xml(data, file)
    return None, totaltext_mat(data, file) if format == "totaltext-mat" else read_text_file(data, file, format)


def _scenes(annotations: Annotations, annotated: list[tuple[str, Regions]], digest) -> Iterator[Scene]:
    whole = annotations.format in WHOLE_SETS
    candidates = (lambda wanted: [wanted]) if whole else _image_names
    images = find_images(annotations.folder, [wanted for wanted, _ in annotated], candidates, by_split=not whole)
    seen = Counter()
    for (wanted, regions), found in zip(annotated, images, strict=True):
        if not whole and found.path is None and len(regions.problems) == len(regions) and not PREFIX.match(wanted):
            continue  # not an annotation but a note beside them: not a line is of the format, and it names no image
        key = _key(wanted if whole else _image_names(wanted)[0])
        seen[key] += 1
        if seen[key] > 1:
            key = f"{key}~{seen[key]}"
        digest.update(f"{key} {found.size} {found.changed}\n".encode())
        yield Scene(key, found.path, (found.problem, found.detail), regions)


def _image_names(file: str) -> list[str]:
    """The names, with or without suffix, that the image of an annotation file may have, the likeliest first.

    gt_img_1.txt and poly_gt_img_1.txt: img_1; img_1.jpg.txt: img_1.jpg; 0001001.txt: 0001001 or 1001.
    """
    stem = file if is_image_name(file) else posixpath.splitext(file)[0]
    name = PREFIX.sub("", stem)
    return list(dict.fromkeys((name, stem, name.lstrip("0") if name.isdigit() else name)))


def _key(image: str) -> str:
    path = re.sub(r"^(\.*/)+", "", posixpath.normpath(printable(image)))
    return posixpath.splitext(path)[0] if is_image_name(path) else path
