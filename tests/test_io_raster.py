"""Single rasters, atomic files, and what a path may be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from rasterio.control import GroundControlPoint
from rio_cogeo.cogeo import cog_validate

from changedet.blocks import from_reader
from changedet.errors import (
    CRSError,
    GridError,
    InputError,
    MissingInputError,
    OutputPathError,
    UnreadableError,
    UnsafePathError,
    VanishedInputError,
    WriteError,
)
from changedet.grid import Grid, Window, attach
from changedet.io.files import atomic, sha256, strict, write_json, write_text
from changedet.io.raster import opened, read_header, read_window, write_cog
from changedet.scenes import Layer

UTM = Affine(10, 0, 500_000, 0, -10, 4_700_000)


def image(dtype: str, shape: tuple[int, int], crs: str | None = "EPSG:32652") -> xr.DataArray:
    """Random numbers on a grid."""
    grid = Grid.make(crs, UTM if crs else Affine.identity(), shape)
    values = np.random.default_rng(5).integers(0, 200, shape).astype(dtype)
    return attach(values, grid, name="magnitude")


def layer(path: Path, *indexes: int) -> Layer:
    """Layer of a file."""
    return Layer(str(path), indexes or (1,), ("a",) * max(len(indexes), 1))


# ------------------------------------------------------------------------------------------------- COG


@pytest.mark.parametrize("crs", ["EPSG:32652", None])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "uint32"])
@pytest.mark.parametrize("shape", [(30, 41), (700, 1100)])
def test_cog_is_valid_and_comes_back(
    tmp_path: Path, crs: str | None, dtype: str, shape: tuple[int, int]
) -> None:
    given = image(dtype, shape, crs)
    nodata = None if dtype == "float32" else 0
    path = write_cog(tmp_path / "out.tif", given, nodata=nodata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        valid, errors, remarks = cog_validate(path, strict=True)
    assert (valid, errors, remarks) == (True, [], [])
    header = read_header(path)
    assert header.grid.same_as(Grid.of(given))
    assert header.dtypes == (dtype,)
    assert header.names == ("magnitude",)
    assert str(header.nodata[0]) == ("nan" if dtype == "float32" else "0.0")
    np.testing.assert_array_equal(read_window(layer(path))[0], given.values)


@pytest.mark.parametrize("compress", ["none", "deflate", "zstd"])
def test_cog_compression(tmp_path: Path, compress: str) -> None:
    path = write_cog(tmp_path / "out.tif", image("float32", (64, 64)), compress=compress)  # type: ignore[arg-type]
    with rasterio.open(path) as dataset:
        assert dataset.profile.get("compress", "none") == compress
    with pytest.raises(InputError, match="lzma2"):
        write_cog(tmp_path / "x.tif", image("float32", (8, 8)), compress="lzma2")  # type: ignore[arg-type]


def test_cog_bands_words_and_tags(tmp_path: Path) -> None:
    two = xr.concat([image("uint8", (20, 30)), image("uint8", (20, 30))], dim="band")
    two = two.assign_coords(band=["red", "nir"])
    path = write_cog(
        tmp_path / "change é x.tif",
        two,
        nodata=255,
        category_names={0: "unchanged", 1: "changed"},
        tags={"METHOD": "cva"},
    )
    header = read_header(path)
    assert header.names == ("red", "nir")
    assert header.tags["CATEGORY_1"] == "changed"
    assert header.tags["METHOD"] == "cva"
    assert read_window(layer(path, 2, 1), (slice(3, 7), slice(2, 9))).shape == (2, 4, 7)


def test_cog_of_labels_keeps_labels_in_overviews(tmp_path: Path) -> None:
    labels = image("uint32", (1200, 1200))
    path = write_cog(tmp_path / "labels.tif", labels, nodata=0)
    with rasterio.open(path) as dataset:
        small = dataset.read(1, out_shape=(300, 300))
    assert set(np.unique(small)) <= set(np.unique(labels.values))


def test_cog_overviews_of_floats_average_what_is_finite(tmp_path: Path) -> None:
    given = image("float32", (1024, 1024)) * 0 + 4.0
    given[:512, :512] = np.nan
    path = write_cog(tmp_path / "m.tif", given)
    with rasterio.open(path) as dataset:
        small = dataset.read(1, out_shape=(256, 256))
    assert np.isnan(small[:120, :120]).all()
    np.testing.assert_allclose(small[130:, 130:], 4.0)


def test_cog_from_dask_is_computed_in_strips(tmp_path: Path) -> None:
    whole = image("float32", (2500, 300))
    seen: list[int] = []

    def read(window: Window) -> np.ndarray:
        seen.append(window[0].stop - window[0].start)
        return whole.values[window]

    lazy = attach(
        from_reader(read, whole.shape, dtype=np.float32, chunk_px=100, token="strips"),
        Grid.of(whole),
        name="m",
    )
    path = write_cog(tmp_path / "lazy.tif", lazy)
    np.testing.assert_array_equal(read_window(layer(path))[0], whole.values)
    assert len(seen) == 25 * 3
    assert max(seen) == 100


def test_cog_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="complex64"):
        write_cog(tmp_path / "c.tif", image("complex64", (4, 4)))
    with pytest.raises(InputError, match="dimensions"):
        write_cog(tmp_path / "c.tif", image("float32", (4, 4)).rename(y="time"))
    assert not list(tmp_path.iterdir())


def test_full_disk_is_a_write_error_and_leaves_nothing(tmp_path: Path) -> None:
    """A process that may not write past 100 kB stands for a full disk."""
    script = """
import resource, sys
import numpy as np
from affine import Affine
from changedet.grid import Grid, attach
from changedet.io.raster import write_cog
from changedet.errors import WriteError
grid = Grid.make("EPSG:32652", Affine(10, 0, 5e5, 0, -10, 4.7e6), (600, 600))
noise = np.random.default_rng(1).random((600, 600)).astype("float32")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_cog(sys.argv[1], attach(noise, grid))
except WriteError as error:
    print(error.exit_status, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out.tif")], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("1 ")
    assert "free space" in done.stdout
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------- files


def test_atomic_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    target = write_text(tmp_path / "a b.txt", "old")
    with pytest.raises(ZeroDivisionError), atomic(target) as part:
        part.write_text("half")
        part.with_name(part.name + ".aux.xml").write_text("x")
        _ = 1 / 0
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a b.txt"]
    with pytest.raises(KeyboardInterrupt), atomic(target) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["a b.txt"]


def test_atomic_turns_os_errors_into_write_errors(tmp_path: Path) -> None:
    with pytest.raises(WriteError, match="No space") as caught, atomic(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise OSError(28, "No space left on device")
    assert isinstance(caught.value, OSError)
    assert caught.value.exit_status == 1
    with pytest.raises(WriteError), atomic(tmp_path / "a.txt"):
        pass  # nothing was written
    assert not list(tmp_path.iterdir())


def test_atomic_refuses_folders_and_files_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputPathError, match="is a folder"):
        write_text(tmp_path / "folder", "x")
    with pytest.raises(OutputPathError, match="not a folder"):
        write_text(tmp_path / "file" / "x.txt", "x")
    assert write_text(tmp_path / "new" / "deep" / "x.txt", "é\n").read_bytes() == "é\n".encode()


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    written = write_text(tmp_path / "ours", "x")
    assert written.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_strict(tmp_path: Path) -> None:
    value = {
        "nan": float("nan"),
        "inf": np.float32(np.inf),
        "day": np.datetime64("2024-01-02"),
        "nat": np.datetime64("NaT"),
        "array": np.arange(2),
        "path": Path("a"),
        "flag": np.bool_(True),
        3: (1, None),
    }
    text = write_json(tmp_path / "a.json", value).read_text()
    assert json.loads(text) == {
        "nan": None,
        "inf": None,
        "day": "2024-01-02",
        "nat": None,
        "array": [0, 1],
        "path": "a",
        "flag": True,
        "3": [1, None],
    }
    assert strict({1}) == [1]


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea")
    with pytest.raises(MissingInputError):
        sha256(tmp_path / "b")
    with pytest.raises(UnreadableError):
        sha256(tmp_path)


# ------------------------------------------------------------------------------------------------- reading


def write(path: Path, values: np.ndarray, **profile: object) -> Path:
    """Write a plain GeoTIFF (band, y, x)."""
    options = {"driver": "GTiff", "crs": "EPSG:32652", "transform": UTM, **profile}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        count, height, width = values.shape
        with rasterio.open(
            path, "w", count=count, height=height, width=width, dtype=values.dtype, **options
        ) as dataset:
            dataset.write(values)
    return path


def test_missing_text_truncated(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="does not exist"):
        read_header(tmp_path / "no.tif")
    (tmp_path / "text.tif").write_text("hello")
    with pytest.raises(UnreadableError, match="wanted a complete raster"):
        read_header(tmp_path / "text.tif")
    (tmp_path / "empty.tif").write_bytes(b"")
    with pytest.raises(UnreadableError):
        read_header(tmp_path / "empty.tif")
    noise = np.random.default_rng(0).integers(0, 9999, (3, 300, 300)).astype("uint16")
    for name, profile in (("strips", {}), ("tiles", {"tiled": True, "compress": "deflate"})):
        whole = write(tmp_path / f"{name}.tif", noise, **profile).read_bytes()
        (tmp_path / "cut.tif").write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(UnreadableError, match="cut"):
            read_header(tmp_path / "cut.tif")


def test_damaged_pixels_are_unreadable(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 9999, (1, 300, 300)).astype("uint16")
    path = write(tmp_path / "a.tif", noise, compress="deflate")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="copy or download"):
        read_window(layer(path))


def test_vanished_while_reading(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", np.ones((1, 4, 4), "uint8"))
    with pytest.raises(VanishedInputError) as caught, opened(path):
        path.unlink()
        raise rasterio.errors.RasterioIOError("gone")
    assert caught.value.exit_status == 1


def test_numbers_that_are_no_measurements(tmp_path: Path) -> None:
    write(tmp_path / "c.tif", np.ones((1, 4, 4), "complex64"))
    with pytest.raises(InputError, match="complex"):
        read_header(tmp_path / "c.tif")
    path = write(tmp_path / "p.tif", np.ones((1, 4, 4), "uint8"), photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 0, 255, 255)})
    with pytest.raises(InputError, match="color table"):
        read_header(path)


def test_gray_ramp_is_a_picture(tmp_path: Path) -> None:
    path = write(
        tmp_path / "gray.bmp",
        np.arange(16, dtype="uint8").reshape(1, 4, 4),
        driver="BMP",
        crs=None,
        transform=None,
    )
    assert read_header(path).count == 1
    assert read_window(layer(path))[0].ravel().tolist() == list(range(16))


def test_half_a_reference_is_refused(tmp_path: Path) -> None:
    corners = ((0, 0), (0, 4), (4, 0), (4, 4))
    points = [GroundControlPoint(r, c, 130 + c / 100, 42 - r / 100) for r, c in corners]
    with rasterio.open(
        tmp_path / "gcp.tif",
        "w",
        driver="GTiff",
        count=1,
        height=4,
        width=4,
        dtype="uint8",
        gcps=points,
        crs="EPSG:4326",
    ) as dataset:
        dataset.write(np.ones((1, 4, 4), "uint8"))
    with pytest.raises(GridError, match="ground control points"):
        read_header(tmp_path / "gcp.tif")
    write(tmp_path / "crs.tif", np.ones((1, 4, 4), "uint8"), transform=Affine.identity())
    with pytest.raises(CRSError, match="no transform"):
        read_header(tmp_path / "crs.tif")


# ------------------------------------------------------------------------------------------------- safety


@pytest.mark.parametrize(
    "text",
    [
        "/vsicurl/http://example.org/a.tif",
        "/vsizip/a.zip/b.tif",
        "/vsimem/x.tif",
        "http://example.org/a.tif",
        "s3://bucket/a.tif",
        "GTIFF_DIR:1:a.tif",
        "NETCDF:a.nc:b",
        "<VRTDataset/>",
        "a//vsicurl/b.tif",
    ],
)
def test_virtual_paths_are_refused(text: str) -> None:
    with pytest.raises(UnsafePathError) as caught:
        read_header(text)
    assert isinstance(caught.value, PermissionError)


VRT = """<VRTDataset rasterXSize="4" rasterYSize="4"><SRS>EPSG:32652</SRS>
<GeoTransform>500000, 10, 0, 4700000, 0, -10</GeoTransform>
<VRTRasterBand dataType="Byte" band="1"><SimpleSource>
<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""


def test_vrt_beside_its_source_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.tif", np.arange(16, dtype="uint8").reshape(1, 4, 4))
    path = tmp_path / "v.vrt"
    path.write_text(VRT.format(relative=1, source="a.tif"))
    assert read_window(layer(path))[0].ravel().tolist() == list(range(16))
    path.write_text(VRT.format(relative=0, source=tmp_path / "a.tif"))
    assert read_header(path).count == 1


@pytest.mark.parametrize(
    "source",
    [
        "../a.tif",
        "/etc/passwd",
        "/vsicurl/http://example.org/a.tif",
        "https://example.org/a.tif",
        "sub/../../a.tif",
    ],
)
def test_vrt_that_points_elsewhere_is_refused(tmp_path: Path, source: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    write(tmp_path / "a.tif", np.ones((1, 4, 4), "uint8"))
    for name in ("v.vrt", "disguised.tif"):
        (folder / name).write_text(VRT.format(relative=1, source=source))
        with pytest.raises(UnsafePathError, match="outside"):
            read_header(folder / name)


def test_vrt_through_a_link_or_another_vrt_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    outside = write(tmp_path / "a.tif", np.ones((1, 4, 4), "uint8"))
    os.symlink(outside, folder / "link.tif")
    (folder / "v.vrt").write_text(VRT.format(relative=1, source="link.tif"))
    with pytest.raises(UnsafePathError, match="outside"):
        read_header(folder / "v.vrt")
    (folder / "inner.vrt").write_text(VRT.format(relative=1, source="../a.tif"))
    (folder / "outer.vrt").write_text(VRT.format(relative=1, source="inner.vrt"))
    with pytest.raises(UnsafePathError, match="outside"):
        read_header(folder / "outer.vrt")


def test_vrt_with_code_or_entities_is_refused(tmp_path: Path) -> None:
    code = "<PixelFunctionLanguage>Python</PixelFunctionLanguage><PixelFunctionCode>x</PixelFunctionCode>"
    text = VRT.format(relative=1, source="a.tif").replace("<SimpleSource>", code + "<SimpleSource>")
    (tmp_path / "v.vrt").write_text(text)
    with pytest.raises(UnsafePathError, match="code"):
        read_header(tmp_path / "v.vrt")
    (tmp_path / "e.vrt").write_text("<!DOCTYPE x [<!ENTITY a 'b'>]>" + VRT.format(relative=1, source="a.tif"))
    with pytest.raises(UnsafePathError, match="entities"):
        read_header(tmp_path / "e.vrt")
    (tmp_path / "broken.vrt").write_text("<VRTDataset><a>")
    with pytest.raises(UnreadableError, match="well-formed"):
        read_header(tmp_path / "broken.vrt")
    (tmp_path / "ring.vrt").write_text(VRT.format(relative=1, source="ring.vrt"))
    with pytest.raises(UnsafePathError, match="nests"):
        read_header(tmp_path / "ring.vrt")
