"""A peer of the benchmark: PyAV, sampling frames of a video.

Speaks JSON Lines as peer.py does. Started as `media.py pyav THREADS`. Times are from opening the file to frames as
arrays in RGB.
"""

import json
import sys
import time

from answers import answers


def sample(file, count, decode_all, threads):
    """The frames in the middle of `count` equal parts."""
    import av

    with av.open(file) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", threads
        seconds = float(stream.duration * stream.time_base)
        times = [(i + 0.5) * seconds / count for i in range(count)]
        frames = []
        if decode_all:
            last, i = None, 0
            for frame in container.decode(stream):
                while i < count and frame.time > times[i]:
                    frames.append((last or frame).to_ndarray(format="rgb24"))
                    i += 1
                last = frame
            frames += [last.to_ndarray(format="rgb24")] * (count - i)
        else:
            for t in times:
                container.seek(int(t / stream.time_base), stream=stream)
                last = None
                for frame in container.decode(stream):
                    if frame.time > t:
                        break
                    last = frame
                frames.append((last or frame).to_ndarray(format="rgb24"))
        return frames


def main():
    answer = answers()

    threads = int(sys.argv[2])
    try:
        import av
        import numpy
    except ImportError as error:
        answer(error=f"{error}; pip install av numpy")
        return
    answer(versions={"av": av.__version__, "numpy": numpy.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            seconds = []
            for _ in range(request["repeats"]):
                begin = time.perf_counter()
                frames = sample(request["file"], request["count"], request["all"], threads)
                seconds.append(time.perf_counter() - begin)
                assert len(frames) == request["count"], f"{len(frames)} frames"
            answer(seconds=seconds)
        except Exception as error:  # Whatever it is, the benchmark is to know.
            answer(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
