"""Which container bytes are, by their content, never by a name or a header of HTTP."""

from sd_assets.containers import bmp, gif, jpeg, png, tiff, webp
from sd_assets.errors import ErrorCode, RowError

# AVIF is not among them: only its decoder knows how the boxes of a picture belong together.
READERS = {
    "jpeg": jpeg.read,
    "png": png.read,
    "webp": webp.read,
    "gif": gif.read,
    "tiff": tiff.read,
    "bmp": bmp.read,
}
FORMATS = (*READERS, "avif")

_SIGNATURES = (
    (b"\xff\xd8\xff", "jpeg"),
    (png.SIGNATURE, "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
)


def sniff(data: bytes) -> str:
    """The format of an image: one of FORMATS.

    Raises:
        RowError: EMPTY, NOT_AN_IMAGE.
    """
    if not data:
        raise RowError(ErrorCode.EMPTY, "no bytes")
    for signature, format in _SIGNATURES:
        if data.startswith(signature):
            return format
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] == b"BM" and int.from_bytes(data[14:18], "little") in bmp.HEADERS:
        return "bmp"
    if data[4:8] == b"ftyp":
        brands = data[8 : max(16, min(int.from_bytes(data[:4], "big"), 256))]
        if any(brands[at : at + 4] in (b"avif", b"avis") for at in range(0, len(brands), 4)):
            return "avif"
        if brands[:4] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
            raise RowError(ErrorCode.NOT_AN_IMAGE, "HEIC is not read: convert it to JPEG, PNG or WebP")
    raise RowError(ErrorCode.NOT_AN_IMAGE, f"the content begins with {data[:24]!r}")
