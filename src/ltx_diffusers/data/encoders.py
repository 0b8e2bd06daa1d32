"""How each kind of video file is encoded: mp4, webm, gif, folder of PNG files.

`video.write_video` calls these with checked input and a temporary path, and renames what they have written.
A writer takes the path, frames uint8 (F, H, W, 3), the frame rate, and a comment (JSON text) or None. The frames are
an array or a stream (`frame_stream.FrameStream`): it goes through them once.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from .frame_stream import FrameStream

FRAME_PATTERN = "frame_{:05d}.png"
"""Names of the PNG files in a folder of frames."""

PNG_METADATA_KEY = "ltx-diffusers"
"""Text entry of a PNG file that holds the comment."""

PNG_RATE_KEY = "frame rate"
"""Text entry of a PNG file that holds the frame rate as a fraction, such as 24 or 30000/1001."""

# Below this an encoder's threads wait for each other longer than they work, most of all on a busy machine; so do
# those that convert a single frame's colours.
_ONE_THREAD_BYTES = 100_000_000

Writer = Callable[[Path, "np.ndarray | FrameStream", Fraction, "str | None"], None]


# x264's macroblock tree reads memory that nobody wrote (its AVX-512 code, with B-frames), so that the same
# frames give other files from call to call.
_X264 = {"crf": "17", "preset": "veryfast", "x264-params": "mbtree=0"}
_VP9 = {"crf": "20", "b": "0", "deadline": "good", "cpu-used": "2"}


def compressed_writer(
    container_format: str, codec: str, options: dict[str, str], muxer: dict[str, str]
) -> Writer:
    """A writer of 8-bit 4:2:0 video in BT.709, limited range."""

    def write(path: Path, frames: np.ndarray | FrameStream, rate: Fraction, comment: str | None) -> None:
        import av
        from av.video.reformatter import ColorRange, Colorspace

        with av.open(str(path), "w", format=container_format, options=muxer) as container:
            if comment is not None:
                container.metadata["comment"] = comment
            small = {"threads": "1"} if frames.size < _ONE_THREAD_BYTES else {}
            stream = container.add_stream(codec, rate=rate, options=options | small)
            stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
            context = stream.codec_context
            # 1 is BT.709 in each of FFmpeg's three tables; players guess at untagged video from its size.
            context.colorspace = context.color_primaries = context.color_trc = 1
            context.color_range = ColorRange.MPEG
            for index, pixels in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24").reformat(
                    format="yuv420p",
                    dst_colorspace=Colorspace.ITU709,
                    dst_color_range=ColorRange.MPEG,
                    threads=1,
                )
                frame.pts = index
                container.mux(stream.encode(frame))
            container.mux(stream.encode())

    return write


def _write_gif(path: Path, frames: np.ndarray | FrameStream, rate: Fraction, comment: str | None) -> None:
    import av

    graph = _palette_graph(frames.shape[2], frames.shape[1], rate)
    for index, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        frame.pts, frame.time_base = index, 1 / rate
        graph.push(frame)
    graph.push(None)  # the palette is known after the last frame, so frames come out only now
    hundredth = Fraction(1, 100)
    with av.open(str(path), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "pal8"
        stream.time_base = hundredth
        for index in range(len(frames)):
            frame = graph.pull()
            # Rounding each time, not each delay, keeps the whole in step with the frame rate.
            frame.pts, frame.time_base = round(index / rate / hundredth), hundredth
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if comment is not None:
        path.write_bytes(_with_gif_comment(path.read_bytes(), comment.encode()))


def _palette_graph(width: int, height: int, rate: Fraction) -> Any:
    """FFmpeg's filters that draw one palette of 256 colours from all frames and dither them to it."""
    import av.filter

    graph = av.filter.Graph()
    size = f"video_size={width}x{height}:pix_fmt=rgb24:time_base={1 / rate}:pixel_aspect=1/1"
    source, sink = graph.add("buffer", size), graph.add("buffersink")
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=full:reserve_transparent=0")
    # Error diffusion runs away on smooth gradients (19 dB instead of 32) and crawls from frame to frame.
    use = graph.add("paletteuse", "dither=bayer:bayer_scale=3")
    source.link_to(split)
    split.link_to(use, 0, 0)
    split.link_to(palette, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph


def _with_gif_comment(gif: bytes, comment: bytes) -> bytes:
    """The GIF with a comment block before its first frame (FFmpeg writes none).

    GIF89a: 13 bytes of header, whose byte 10 tells the global colour table's length; a comment is 0x21 0xFE,
    runs of up to 255 bytes each after its length, and a zero.
    """
    head = 13 + (3 * 2 ** ((gif[10] & 7) + 1) if gif[10] & 0x80 else 0)
    runs = [comment[start : start + 255] for start in range(0, len(comment), 255)]
    block = b"\x21\xfe" + b"".join(bytes([len(run)]) + run for run in runs) + b"\x00"
    return b"GIF89a" + gif[6:head] + block + gif[head:]


def _write_frames(path: Path, frames: np.ndarray | FrameStream, rate: Fraction, comment: str | None) -> None:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    path.mkdir()
    text = PngInfo()
    text.add_text(PNG_RATE_KEY, str(rate))
    if comment is not None:
        text.add_itxt(PNG_METADATA_KEY, comment, zip=True)
    for index, pixels in enumerate(frames):
        Image.fromarray(np.ascontiguousarray(pixels)).save(path / FRAME_PATTERN.format(index), pnginfo=text)


WRITERS: dict[str, Writer] = {
    "mp4": compressed_writer("mp4", "libx264", _X264, {"movflags": "+faststart"}),
    "webm": compressed_writer("webm", "libvpx-vp9", _VP9, {"fflags": "+bitexact"}),  # else with a random id
    "gif": _write_gif,
    "frames": _write_frames,
}
