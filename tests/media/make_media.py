"""Makes small sounds and videos in many containers, and what the references make of them.

Needs ffmpeg (5.1), sox, and from PyPI numpy, librosa, soxr, pillow and torchaudio. Run once; the results are
committed, and no test needs any of these. Every video frame tells its number: eight squares along its top, white for
one, the most significant first. Sounds are two tones that glide, another on each side.

  sounds/NAME, sounds/NAME.expected.flac    a sound, and what FFmpeg decodes of it, averaged to one channel; what is
                                            lossless has none: it is stereo.wav or mono-8k.wav
  sounds/resampled/FROM-TO.FILTER.i16       librosa and torchaudio on noise that the tests make too
  videos/NAME, videos/expected.json         a video; of one frame of each as FFmpeg shows it, the means of 8 x 8 pixels
"""

import json
import pathlib
import shutil
import subprocess
import sys

import numpy as np
from PIL import Image

HERE = pathlib.Path(__file__).parent
SOUNDS, VIDEOS = HERE / "sounds", HERE / "videos"
RATE = 16000


def run(*command, data=None):
    subprocess.run([str(c) for c in command], input=data, check=True, capture_output=True)


def ffmpeg(*arguments, data=None):
    run("ffmpeg", "-y", "-v", "error", "-bitexact", *arguments, data=data)


def sound(seconds=0.4, rate=RATE, channels=2):
    t = np.arange(int(seconds * rate)) / rate
    sides = [np.sin(2 * np.pi * (300 + 250 * c + 900 * (c + 1) * t) * t) * (0.5 - 0.1 * c) * np.exp(-t) for c in range(channels)]
    return np.stack(sides, 1).astype(np.float32)


def decoded(path):
    """Mono by the mean, through FFmpeg's own program."""
    probe = subprocess.run(
        ["ffprobe", "-v", "error", "-select_streams", "a:0", "-show_entries", "stream=channels,sample_rate", "-of", "json", path],
        check=True, capture_output=True)
    stream = json.loads(probe.stdout)["streams"][0]
    raw = subprocess.run(["ffmpeg", "-v", "error", "-i", path, "-map", "0:a:0", "-f", "f32le", "-"], check=True, capture_output=True)
    return np.frombuffer(raw.stdout, np.float32).reshape(-1, stream["channels"]).mean(1), int(stream["sample_rate"])


def sounds():
    shutil.rmtree(SOUNDS, ignore_errors=True)
    SOUNDS.mkdir(parents=True)
    stereo = SOUNDS / "stereo.wav"

    def wav(path, samples, rate):
        ffmpeg("-f", "f32le", "-ar", rate, "-ac", samples.shape[1], "-i", "-", "-c:a", "pcm_s16le", path, data=samples.tobytes())

    wav(stereo, sound(), RATE)
    wav(SOUNDS / "mono-8k.wav", sound(0.4, 8000, 1), 8000)
    wav(SOUNDS / "surround.wav", sound(0.1, RATE, 6), RATE)
    mono = SOUNDS / "mono-8k.wav"
    lossless = [stereo, mono]
    for name, codec in {"s24.wav": "pcm_s24le", "f32.wav": "pcm_f32le", "f64.wav": "pcm_f64le", "s16.caf": "pcm_s16be", "s16.au": "pcm_s16be",
                        "mono.flac": "flac", "wave64.w64": "pcm_s16le"}.items():
        ffmpeg("-i", mono, "-c:a", codec, SOUNDS / name)
        lossless.append(SOUNDS / name)
    for name, codec in {"s16.aiff": "pcm_s16be", "alac.caf": "alac", "alac.m4a": "alac", "stereo.flac": "flac", "pcm.mka": "pcm_s16le", "flac.ogg": "flac"}.items():
        ffmpeg("-i", stereo, "-c:a", codec, SOUNDS / name)
        lossless.append(SOUNDS / name)
    for name, codec in {
        "u8.wav": "pcm_u8", "mulaw.wav": "pcm_mulaw", "adpcm.wav": "adpcm_ima_wav", "aac.m4a": "aac", "adts.aac": "aac", "mp3.mp3": "libmp3lame",
        "vorbis.ogg": "libvorbis", "vorbis.mka": "libvorbis", "opus.ogg": "libopus", "opus.webm": "libopus", "wma.wma": "wmav2", "ac3.mka": "ac3", "mp2.mp2": "mp2",
    }.items():
        rate = ["-ar", 48000] if codec in ("ac3", "libopus") else []
        ffmpeg("-i", stereo, *rate, "-c:a", codec, SOUNDS / name)
    short_page(SOUNDS / "short-page.ogg")
    run("sox", "-R", SOUNDS / "mono-8k.wav", "-t", "amr-nb", SOUNDS / "narrow.amr")
    for name in ("sox.aiff", "sox.wv", "sox.ogg", "sox.flac"):
        run("sox", "-R", mono, SOUNDS / name)
        lossless += [] if name == "sox.ogg" else [SOUNDS / name]
    cover = SOUNDS / "cover.png"
    Image.new("RGB", (16, 16), (200, 30, 30)).save(cover)
    for name in ("mp3.mp3", "stereo.flac", "aac.m4a"):
        out = SOUNDS / f"cover-{name}"
        ffmpeg("-i", SOUNDS / name, "-i", cover, "-map", "0:a", "-map", "1:v", "-c", "copy", "-disposition:v", "attached_pic", out)
    cover.unlink()
    for path in sorted(set(SOUNDS.iterdir()) - set(lossless)):
        if path.name == "cover-stereo.flac":
            continue
        mono, rate = decoded(path)
        ffmpeg("-f", "f32le", "-ar", rate, "-ac", 1, "-i", "-", "-c:a", "flac", "-sample_fmt", "s16", f"{path}.expected.flac",
               data=mono.astype(np.float32).tobytes())
    resampled()


def short_page(path):
    """Vorbis whose third page but one tells of 50 samples less than are in it, as FFmpeg's pages do where blocks change their
    size: only on the last page is that padding."""
    bursts = noise(32000) * np.exp(-(np.arange(32000) % 4000) / 300).astype(np.float32)
    ffmpeg("-f", "f32le", "-ar", 8000, "-ac", 1, "-i", "-", "-c:a", "libvorbis", "-q:a", 0, path, data=bursts.tobytes())
    data, at, pages = bytearray(path.read_bytes()), 0, []
    while at < len(data):
        segments = data[at + 26]
        pages.append((at, 27 + segments + sum(data[at + 27 : at + 27 + segments])))
        at += pages[-1][1]
    at, size = pages[-3]
    granule = int.from_bytes(data[at + 6 : at + 14], "little") - 50
    data[at + 6 : at + 14] = granule.to_bytes(8, "little")
    data[at + 22 : at + 26] = bytes(4)
    crc = 0
    for byte in data[at : at + size]:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    data[at + 22 : at + 26] = crc.to_bytes(4, "little")
    path.write_bytes(data)


def noise(count):
    """Uniform within -0.5 and 0.5, by a congruential generator that is written in a line anywhere."""
    state, out = 1, np.zeros(count, np.float32)
    for i in range(count):
        state = (state * 1664525 + 1013904223) % 2**32
        out[i] = (state >> 8) / 2**24 - 0.5
    return out


def resampled():
    import librosa
    import torch
    import torchaudio

    folder = SOUNDS / "resampled"
    folder.mkdir()
    x = noise(3000)
    for a, b in ((44100, 48000), (44100, 16000), (16000, 48000), (48000, 16000), (22050, 48000), (8000, 16000)):
        ours = {
            "soxr_hq": librosa.resample(x, orig_sr=a, target_sr=b, res_type="soxr_hq"),
            "torchaudio": torchaudio.functional.resample(torch.from_numpy(x), a, b).numpy(),
        }
        for name, y in ours.items():
            (y * 32767).round().clip(-32768, 32767).astype("<i2").tofile(folder / f"{a}-{b}.{name}.i16")


def frame(i, width=96, height=64, flat=False):
    y, x = np.mgrid[0:height, 0:width]
    if flat:
        x, y = x * 0, y * 0
    picture = np.stack([40 + x + 0 * y, 200 - 2 * y + 0 * x, 60 + 2 * ((x + y + 4 * i) % 64)], -1).clip(0, 255).astype(np.uint8)
    side = width // 8
    for bit in range(8):
        picture[: side + 4, bit * side : (bit + 1) * side] = 255 if i >> (7 - bit) & 1 else 0
    return picture


def raw(count, width=96, height=64):
    return b"".join(frame(i, width, height).tobytes() for i in range(count))


def videos():
    shutil.rmtree(VIDEOS, ignore_errors=True)
    VIDEOS.mkdir(parents=True)
    size, count, rate, key = "96x64", 60, 10, 12
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", "-"]
    x264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-g", key, "-bf", 3, "-crf", 24, "-preset", "slow", "-x264-params", "threads=1"]
    frames = raw(count)

    def make(name, *options):
        ffmpeg(*source, *options, VIDEOS / name, data=frames)

    make("h264.mp4", *x264, "-movflags", "faststart")
    for name in ("h264.mkv", "h264.ts", "h264.flv", "h264.mov", "bare.h264"):
        ffmpeg("-i", VIDEOS / "h264.mp4", "-c", "copy", VIDEOS / name)
    ffmpeg("-i", VIDEOS / "h264.mp4", "-c", "copy", "-movflags", "frag_keyframe+empty_moov", VIDEOS / "fragmented.mp4")
    make("hevc.mp4", "-c:v", "libx265", "-pix_fmt", "yuv420p", "-crf", 28, "-x265-params", f"keyint={key}:pools=1:log-level=none", "-tag:v", "hvc1")
    make("vp9.webm", "-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-g", key, "-crf", 40, "-b:v", 0)
    make("vp8.webm", "-c:v", "libvpx", "-pix_fmt", "yuv420p", "-g", key, "-b:v", "60k")
    make("av1.mp4", "-c:v", "libaom-av1", "-pix_fmt", "yuv420p", "-g", key, "-crf", 40, "-cpu-used", 6)
    make("mpeg4.avi", "-c:v", "mpeg4", "-g", key, "-bf", 2, "-q:v", 6)
    make("mpeg4.mp4", "-c:v", "mpeg4", "-g", key, "-q:v", 6)
    # MPEG-1 and -2 know no 10 frames a second.
    for name, codec in (("mpeg2.mpg", "mpeg2video"), ("mpeg1.mpg", "mpeg1video")):
        ffmpeg("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", 25, "-i", "-", "-c:v", codec, "-g", key, "-bf", 2, "-q:v", 6, VIDEOS / name, data=frames)
    make("theora.ogv", "-c:v", "libtheora", "-g", key, "-q:v", 4)
    make("wmv.wmv", "-c:v", "wmv2", "-g", key, "-q:v", 6)
    make("mjpeg.avi", "-c:v", "mjpeg", "-q:v", 12)
    make("full-range.mp4", *x264, "-pix_fmt", "yuvj420p", "-vf", "scale=out_color_matrix=bt709:out_range=full", "-colorspace", "bt709", "-color_range", "pc")
    make("bt709.mp4", *x264, "-vf", "scale=out_color_matrix=bt709:out_range=tv", "-colorspace", "bt709", "-color_range", "tv")
    flat = b"".join(frame(i, flat=True).tobytes() for i in range(count))
    ffmpeg(*source, "-plays", 0, "-f", "apng", "-pix_fmt", "rgb24", VIDEOS / "animated.apng", data=flat)
    make("pixels.mp4", *x264, "-vf", "setsar=3/2")
    for degrees in (90, 180, 270):
        ffmpeg("-i", VIDEOS / "h264.mp4", "-c", "copy", "-t", 3.5, "-metadata:s:v", f"rotate={degrees}", VIDEOS / f"rotated-{degrees}.mp4")
    # Frames 0 to 9 last 0.1 s each, the others 0.5 s.
    make("variable.mp4", *x264, "-vf", "setpts='if(lt(N,10),N*0.1,1+(N-10)*0.5)/TB'", "-vsync", "vfr", "-video_track_timescale", 1000)
    make("variable.mkv", *x264, "-vf", "setpts='if(lt(N,10),N*0.1,1+(N-10)*0.5)/TB'", "-vsync", "vfr")
    # Its first frame is shown at 5 s.
    make("late.mkv", *x264, "-output_ts_offset", 5)
    pictures = [Image.fromarray(frame(i, flat=True)) for i in range(count)]
    pictures[0].save(VIDEOS / "animated.gif", save_all=True, append_images=pictures[1:], duration=100, loop=0)
    pictures[0].save(VIDEOS / "animated.webp", save_all=True, append_images=pictures[1:], duration=100, quality=60, method=6)
    tone = sound(6.0, RATE, 1)
    wav = VIDEOS / "tone.wav"
    ffmpeg("-f", "f32le", "-ar", RATE, "-ac", 1, "-i", "-", "-c:a", "pcm_s16le", wav, data=tone.tobytes())
    ffmpeg("-i", VIDEOS / "h264.mp4", "-i", wav, "-map", "0:v", "-map", "1:a", "-c:v", "copy", "-c:a", "aac", "-b:a", "24k", VIDEOS / "sound.mp4")
    wav.unlink()
    expected = {}
    for path in sorted(VIDEOS.iterdir()):
        at = 12 if "variable" in path.name else 30
        if path.suffix == ".webp":
            # FFmpeg 5.1 decodes no animated WebP.
            shown = frame(at, flat=True)
        else:
            scale = "scale=ceil(iw*max(sar\\,1)):ceil(ih/min(sar\\,1)):flags=bicubic+accurate_rnd+full_chroma_int"
            out = VIDEOS / "shown.png"
            ffmpeg("-i", path, "-vf", f"select=eq(n\\,{at}),{scale}", "-frames:v", 1, "-pix_fmt", "rgb24", out)
            shown = np.array(Image.open(out).convert("RGB"))
            out.unlink()
        height, width = shown.shape[:2]
        means = shown.reshape(height // 8, 8, width // 8, 8, 3).mean((1, 3)).round().astype(int)
        expected[path.name] = {"frame": at, "width": width, "height": height, "means": means.reshape(-1).tolist()}
    (VIDEOS / "expected.json").write_text(json.dumps(expected, separators=(",", ":")).replace("},", "},\n") + "\n")
    hostile(x264)


def hostile(x264):
    small = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", "96x64"]
    # A minute and an hour, a frame a second and a key frame every ten.
    for name, seconds in (("minute.mp4", 60), ("hour.mp4", 3600)):
        ffmpeg("-f", "lavfi", "-i", f"color=c=0x406080:s=32x32:r=1:d={seconds}", "-c:v", "libx264", "-g", 10, "-bf", 0, "-crf", 45,
               "-x264-params", "threads=1:scenecut=0", "-pix_fmt", "yuv420p", VIDEOS / name)
    ffmpeg("-f", "lavfi", "-i", "color=c=black:s=10000x10000:r=1:d=1", "-c:v", "libx264", "-crf", 51, "-preset", "fast", "-x264-params", "threads=1:partitions=none:me=dia:subme=1", "-pix_fmt", "yuv420p", VIDEOS / "huge.mp4")
    key = "00112233445566778899aabbccddeeff"
    ffmpeg("-i", VIDEOS / "sound.mp4", "-t", 1, "-c", "copy", "-encryption_scheme", "cenc-aes-ctr", "-encryption_key", key, "-encryption_kid", key, VIDEOS / "encrypted.mp4")
    ffmpeg("-i", VIDEOS / "sound.mp4", "-map", "0:a", "-t", 1, "-c", "copy", VIDEOS / "only-sound.mp4")
    # Every third part of the media is noise.
    whole = bytearray((VIDEOS / "h264.mp4").read_bytes())
    start = whole.index(b"mdat") + 4
    random = np.random.default_rng(3)
    for at in range(start + 2000, len(whole) - 200, 900):
        whole[at : at + 120] = random.integers(0, 256, 120, np.uint8).tobytes()
    (VIDEOS / "damaged.mp4").write_bytes(whole)


if __name__ == "__main__":
    which = sys.argv[1:] or ["sounds", "videos"]
    if "sounds" in which:
        sounds()
    if "videos" in which:
        videos()
