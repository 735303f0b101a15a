"""Fetch the artwork behind the built-in model, check it, and build the packs that ship and that train.

Sources are public packages, fetched by name with the ordinary clients (``npm pack``, ``apt-get download``);
``CHECKSUMS`` pins their contents. SVG is rasterised with resvg, the only rasteriser right on every set.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import lzma
import shutil
import subprocess
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from conceptloom.errors import DataError
from conceptloom.scenes.sprites import ATLAS_COLUMNS, CELL_PX, ROLES

PHOTO_HEIGHT_PX = 256
SHIPPED_TRAIN_PHOTOS = 30
ENDLESS_SKY = "endless-sky-data_0.9.8-1.2_all.deb"
NPM_PACKAGES = {
    "noto": ("@iconify-json/noto@1.2.9", "iconify-json-noto-1.2.9.tgz"),
    "noto_v1": ("@iconify-json/noto-v1@1.2.5", "iconify-json-noto-v1-1.2.5.tgz"),
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "lobehub-fluent-emoji-3d-1.1.0.tgz"),
    "twemoji": ("@iconify-json/twemoji@1.2.5", "iconify-json-twemoji-1.2.5.tgz"),
    "emojione": ("@iconify-json/emojione@1.2.3", "iconify-json-emojione-1.2.3.tgz"),
    "fxemoji": ("@iconify-json/fxemoji@1.2.2", "iconify-json-fxemoji-1.2.2.tgz"),
    "streamline": ("@iconify-json/streamline-emojis@1.2.4", "iconify-json-streamline-emojis-1.2.4.tgz"),
    "hdri": ("@pmndrs/assets@1.7.0", "pmndrs-assets-1.7.0.tgz"),
}
CHECKSUMS = {
    "iconify-json-emojione-1.2.3.tgz": "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
    "iconify-json-fxemoji-1.2.2.tgz": "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
    "iconify-json-noto-1.2.9.tgz": "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
    "iconify-json-noto-v1-1.2.5.tgz": "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
    "iconify-json-streamline-emojis-1.2.4.tgz": "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
    "iconify-json-twemoji-1.2.5.tgz": "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
    "lobehub-fluent-emoji-3d-1.1.0.tgz": "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
    "pmndrs-assets-1.7.0.tgz": "152bd218a3390703f184f0c6ce16e73c8f0a87f32d38530d418a09d33d8208dc",
    ENDLESS_SKY: "e45835e05a11e84bb1a890a0ded390246a53b8318f21a25925aa70fa54f80c13",
}


@dataclass(frozen=True)
class AssetProgress:
    """One finished piece of the acquisition."""

    done: int
    total: int
    what: str


def build_packs(cache: Path, ship_to: Path | None = None) -> Iterator[AssetProgress]:
    """Fetch every source into ``cache/downloads`` and build ``cache/sprites`` and ``cache/backgrounds``.

    With ``ship_to`` the sprite pack and the photographs that ship (all ``dev`` and ``test``, the first
    ``SHIPPED_TRAIN_PHOTOS`` of ``train`` spread over the labels) are also written there.
    Raises ``DataError`` when a client is missing, a download fails or a checksum differs.
    """
    downloads = cache / "downloads"
    downloads.mkdir(parents=True, exist_ok=True)
    total = len(NPM_PACKAGES) + 3
    for number, (package, archive) in enumerate(NPM_PACKAGES.values(), 1):
        fetch_npm(package, archive, downloads)
        yield AssetProgress(number, total, archive)
    fetch_endless_sky(downloads)
    yield AssetProgress(total - 2, total, ENDLESS_SKY)
    write_sprite_pack(downloads, cache / "sprites")
    yield AssetProgress(total - 1, total, "sprites")
    photos = list(read_photos(downloads))
    write_photos(photos, cache / "backgrounds")
    if ship_to is not None:
        _replace_tree(cache / "sprites", ship_to / "sprites")
        write_photos(shipped_photos(photos), ship_to / "backgrounds")
    yield AssetProgress(total, total, "backgrounds")


# Fetching -------------------------------------------------------------------------------------------------------


def fetch_npm(package: str, archive: str, downloads: Path) -> Path:
    """The npm package's archive, fetched unless a file with the right checksum is already there."""
    target = downloads / archive
    if not _is_intact(target):
        _run(
            ["npm", "pack", "--silent", package], downloads, f"install npm, or put {archive} into {downloads}"
        )
    return _checked(target)


def fetch_endless_sky(downloads: Path) -> Path:
    """The Debian package with the photographs, fetched unless it is already there."""
    target = downloads / ENDLESS_SKY
    if not _is_intact(target):
        remedy = f"on a system other than Debian put {ENDLESS_SKY} into {downloads}"
        _run(["apt-get", "download", "endless-sky-data=0.9.8-1.2"], downloads, remedy)
    return _checked(target)


def _run(command: list[str], folder: Path, remedy: str) -> None:
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=900)
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(f"'{' '.join(command)}' failed ({type(error).__name__}): {remedy}") from error


def _is_intact(path: Path) -> bool:
    return path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == CHECKSUMS[path.name]


def _checked(path: Path) -> Path:
    if not _is_intact(path):
        raise DataError(
            f"{path.name} has another checksum than the pinned {CHECKSUMS[path.name][:12]}…: delete it"
        )
    return path


# Sprites --------------------------------------------------------------------------------------------------------


def read_table(name: str) -> list[dict[str, str]]:
    """A table of ``basemodel/sources`` as one dictionary a row."""
    text = (files("conceptloom.basemodel") / "sources" / name).read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text), delimiter="\t"))


def write_sprite_pack(downloads: Path, folder: Path) -> None:
    """Rasterise every sprite that has the role train, dev or test, and write one atlas per (role, family)."""
    names = {row["noun"]: row for row in read_table("sprites.tsv")}
    groups: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
    for row in read_table("sprite_roles.tsv"):
        if row["role"] in ROLES:
            groups[row["role"], row["family"]].append(row)
    rasterisers = {family: _Rasteriser(family, downloads) for family in {family for _, family in groups}}
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        scratch = Path(temporary) / "sprites"
        scratch.mkdir()
        entries: list[dict[str, Any]] = []
        for (role, family), rows in sorted(groups.items()):
            atlas = np.zeros((-(-len(rows) // ATLAS_COLUMNS) * CELL_PX, ATLAS_COLUMNS * CELL_PX, 4), np.uint8)
            for cell, row in enumerate(sorted(rows, key=lambda row: row["noun"])):
                line, column = divmod(cell, ATLAS_COLUMNS)
                window = (
                    slice(line * CELL_PX, (line + 1) * CELL_PX),
                    slice(column * CELL_PX, (column + 1) * CELL_PX),
                )
                atlas[window] = rasterisers[family].draw(names[row["noun"]])
                entries.append(
                    {key: row[key] for key in ("noun", "family", "role", "class_word", "noun_split")}
                )
                entries[-1]["cell"] = cell
            Image.fromarray(atlas).save(scratch / f"{role}-{family}.webp", quality=90, method=6)
        index = {"cell_px": CELL_PX, "columns": ATLAS_COLUMNS, "sprites": entries}
        (scratch / "sprites.json").write_text(_one_entry_a_line(index, "sprites"), encoding="utf-8")
        _replace_tree(scratch, folder)


class _Rasteriser:
    """Draws one family's icons at ``CELL_PX``, cropped to the drawing and centred."""

    def __init__(self, family: str, downloads: Path) -> None:
        self.family = family
        self.archive = downloads / NPM_PACKAGES[family][1]
        self.icons: dict[str, Any] = {}
        if family != "fluent":
            self.icons = json.loads(_member(self.archive, "package/icons.json"))

    def draw(self, names: dict[str, str]) -> NDArray[np.uint8]:
        """The icon of a row of ``sprites.tsv`` as uint8 (CELL_PX, CELL_PX, 4)."""
        is_fluent = self.family == "fluent"
        data = self._fluent(names["codepoints"]) if is_fluent else self._svg(names[f"{self.family}_name"])
        with Image.open(io.BytesIO(data), formats=["PNG", "WEBP"]) as image:
            rgba = image.convert("RGBA")
        box = rgba.getchannel("A").point(lambda alpha: 255 if alpha > 8 else 0).getbbox()
        if box is None:
            raise DataError(
                f"{self.family} draws nothing for {names['noun']}: the source package has changed"
            )
        rgba = rgba.crop(box)
        scale = (CELL_PX - 2) / max(rgba.size)
        size = (max(1, round(rgba.width * scale)), max(1, round(rgba.height * scale)))
        cell = Image.new("RGBA", (CELL_PX, CELL_PX))
        cell.paste(
            rgba.resize(size, Image.Resampling.LANCZOS), ((CELL_PX - size[0]) // 2, (CELL_PX - size[1]) // 2)
        )
        return np.asarray(cell)

    def _fluent(self, codepoints: str) -> bytes:
        wanted = _bare(codepoints)
        for name in _members(self.archive):
            if name.startswith("package/assets/") and _bare(Path(name).stem) == wanted:
                return _member(self.archive, name)
        raise DataError(f"fluent has no drawing for code points {codepoints}: the source package has changed")

    def _svg(self, name: str) -> bytes:
        import resvg_py

        icons = self.icons
        icon = icons["icons"].get(name)
        if icon is None and name in icons.get("aliases", {}):
            icon = icons["icons"].get(icons["aliases"][name]["parent"])
        if icon is None:
            raise DataError(f"{self.family} has no icon named {name!r}: the source package has changed")
        box = [icon.get(key, icons.get(key, default)) for key, default in _ICON_BOX]
        svg = (
            '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box[0]} {box[1]} {box[2]} {box[3]}">{icon["body"]}</svg>'
        )
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=256, height=256))


_ICON_BOX = (("left", 0), ("top", 0), ("width", 16), ("height", 16))


def _bare(codepoints: str) -> str:
    parts = codepoints.lower().replace("_", "-").replace(" ", "-").split("-")
    return "-".join(part.lstrip("0") for part in parts if part != "fe0f")


_archives: dict[Path, dict[str, bytes]] = {}


def _contents(archive: Path) -> dict[str, bytes]:
    if archive not in _archives:
        with tarfile.open(archive, "r:gz") as tar:
            kept = (".json", ".webp", ".exr.js")
            members = [member for member in tar if member.isfile() and member.name.endswith(kept)]
            _archives[archive] = {member.name: _read(tar, member) for member in members}
    return _archives[archive]


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = tar.extractfile(member)
    if stream is None:
        raise DataError(f"{member.name} is not a file: the source package has changed")
    return stream.read()


def _members(archive: Path) -> Iterable[str]:
    return _contents(archive).keys()


def _member(archive: Path, name: str) -> bytes:
    try:
        return _contents(archive)[name]
    except KeyError:
        raise DataError(f"{archive.name} lacks {name}: delete it and run 'make sprites' again") from None


# Photographs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SourcePhoto:
    """A photograph with where it came from; ``pixels`` uint8 (PHOTO_HEIGHT_PX, width, 3)."""

    label: str
    role: str
    source: str
    licence: str
    pixels: NDArray[np.uint8]


def read_photos(downloads: Path) -> Iterator[SourcePhoto]:
    """Every photograph of ``backgrounds.tsv``; a panorama gives four views of 75 degrees."""
    deb = _deb_images(downloads / ENDLESS_SKY)
    rng = np.random.default_rng(20260101)
    for row in read_table("backgrounds.tsv"):
        if row["package"] == "endless-sky-data":
            with Image.open(io.BytesIO(deb[Path(row["file"]).name]), formats=["JPEG"]) as image:
                views = [np.asarray(image.convert("RGB"))]
        elif row["package"] == "scikit-image":
            views = [_tinted_texture(row["file"], rng)]
        else:
            archive = downloads / NPM_PACKAGES["hdri"][1]
            panorama = _read_panorama(_member(archive, f"package/{row['file']}"))
            views = [_perspective(panorama, yaw) for yaw in (0, 90, 180, 270)]
        for number, view in enumerate(views):
            source = f"{row['package']}/{row['file']}" + (f"#{number}" if len(views) > 1 else "")
            yield SourcePhoto(row["label"], row["role"], source, row["licence"], _to_height(view))


def shipped_photos(photos: list[SourcePhoto]) -> list[SourcePhoto]:
    """All dev and test photographs and ``SHIPPED_TRAIN_PHOTOS`` training ones, one a label in turn."""
    by_label: dict[str, list[SourcePhoto]] = defaultdict(list)
    for photo in photos:
        if photo.role == "train":
            by_label[photo.label].append(photo)
    train: list[SourcePhoto] = []
    depth = 0
    while len(train) < SHIPPED_TRAIN_PHOTOS and any(len(group) > depth for group in by_label.values()):
        train += [group[depth] for _, group in sorted(by_label.items()) if len(group) > depth]
        depth += 1
    return [photo for photo in photos if photo.role != "train"] + train[:SHIPPED_TRAIN_PHOTOS]


def write_photos(photos: list[SourcePhoto], folder: Path) -> None:
    """Write photographs as WebP with an index that carries label, role, source and licence."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        scratch = Path(temporary) / "backgrounds"
        scratch.mkdir()
        entries = []
        for number, photo in enumerate(photos):
            name = f"{photo.role}-{photo.label.replace(' ', '-')}-{number:03d}.webp"
            Image.fromarray(photo.pixels).save(scratch / name, quality=85, method=6)
            entry = {"file": name, "label": photo.label, "role": photo.role}
            entries.append(entry | {"source": photo.source, "licence": photo.licence})
        index = {"height_px": PHOTO_HEIGHT_PX, "photos": entries}
        (scratch / "backgrounds.json").write_text(_one_entry_a_line(index, "photos"), encoding="utf-8")
        _replace_tree(scratch, folder)


def _to_height(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    width = round(image.width * PHOTO_HEIGHT_PX / image.height)
    return np.asarray(image.resize((width, PHOTO_HEIGHT_PX), Image.Resampling.LANCZOS))


def _deb_images(path: Path) -> dict[str, bytes]:
    """Pictures of a Debian package: an ``ar`` archive whose member ``data.tar.xz`` holds the files."""
    blob = path.read_bytes()
    offset = len(b"!<arch>\n")
    while offset < len(blob):
        name, size = blob[offset : offset + 16].strip(), int(blob[offset + 48 : offset + 58])
        start = offset + 60
        if name.startswith(b"data.tar.xz"):
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(blob[start : start + size]))) as tar:
                land = [member for member in tar if "/images/land/" in member.name and member.isfile()]
                return {Path(member.name).name: _read(tar, member) for member in land}
        offset = start + size + size % 2
    raise DataError(f"{path.name} holds no data.tar.xz: delete it and run 'make sprites' again")


_TEXTURE_TINTS = {
    "brick.png": (1.25, 0.8, 0.65),
    "grass.png": (0.8, 1.15, 0.55),
    "gravel.png": (1.05, 1.0, 0.92),
}


def _tinted_texture(file: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A grey texture of scikit-image, tinted, since those three come without colour."""
    import skimage.data

    name = Path(file).name
    grey = np.asarray(getattr(skimage.data, Path(name).stem)(), np.float32)
    tint = np.asarray(_TEXTURE_TINTS[name], np.float32) * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    tinted: NDArray[np.uint8] = np.clip(grey[..., None] * tint, 0, 255).astype(np.uint8)
    return tinted


def _read_panorama(module: bytes) -> NDArray[np.float32]:
    """An equirectangular panorama from its JavaScript module (base64 EXR), linear RGB (256, 512, 3)."""
    import OpenEXR

    encoded = module.split(b"base64,", 1)[1].split(b"'", 1)[0].split(b'"', 1)[0]
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(base64.b64decode(encoded))
        file.flush()
        with OpenEXR.File(file.name, separate_channels=True) as exr:
            channels = exr.channels()
            return np.stack([np.asarray(channels[key].pixels, np.float32) for key in "RGB"], axis=-1)


def _perspective(panorama: NDArray[np.float32], yaw: float, fov: float = 75) -> NDArray[np.uint8]:
    """A 2:1 view into a panorama, tone-mapped to 8-bit sRGB.

    Negative rings around lamps and the sun are resampling artefacts of the source: cut at zero.
    """
    height, width = PHOTO_HEIGHT_PX, 2 * PHOTO_HEIGHT_PX
    reach = np.tan(np.radians(fov) / 2)
    x, y = np.meshgrid(np.linspace(-reach, reach, width), np.linspace(-reach / 2, reach / 2, height))
    longitude = np.arctan2(x, 1) + np.radians(yaw)
    latitude = np.arctan2(y, np.hypot(x, 1))
    rows, columns = panorama.shape[:2]
    from scipy.ndimage import map_coordinates

    where = [(latitude / np.pi + 0.5) * rows - 0.5, (longitude / (2 * np.pi) % 1.0) * columns - 0.5]
    clean = np.clip(panorama, 0, None)
    view = np.stack([map_coordinates(clean[..., c], where, order=1, mode="grid-wrap") for c in range(3)], -1)
    view = view * (0.22 / max(float(np.median(view.mean(-1))), 1e-4))
    mapped = view / (1 + 0.35 * view)
    encoded: NDArray[np.uint8] = (255 * np.clip(mapped, 0, 1) ** (1 / 2.2)).astype(np.uint8)
    return encoded


# Folders --------------------------------------------------------------------------------------------------------


def _one_entry_a_line(index: dict[str, Any], key: str) -> str:
    head = json.dumps({name: value for name, value in index.items() if name != key})[1:-1]
    lines = ",\n".join(json.dumps(entry) for entry in index[key])
    return "{" + head + f', "{key}": [\n' + lines + "\n]}\n"


def _replace_tree(source: Path, target: Path) -> None:
    if target.exists():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target)
