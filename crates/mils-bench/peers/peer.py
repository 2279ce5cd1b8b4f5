"""Peers of the benchmark: transformers in PyTorch (f32 or bf16), or exported to ONNX Runtime (f32).

Speaks JSON Lines: a request on stdin, an answer on stdout. Started as `peer.py ENGINE THREADS`, it first says which
versions it has, or what is missing. Times are of the tower's forward pass alone, from tensors in memory to embeddings
of length 1 in memory; or of the feature extractor alone, from samples to spectrograms.
"""

import json
import os
import pathlib
import sys
import time

from answers import answers

ENGINES = ("torch-f32", "torch-bf16", "ort-f32")


def start(engine, threads):
    """Imports what the engine needs and returns its versions."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if engine == "ort-f32":
        import onnx
        import onnxruntime
        import onnxscript

        versions |= {"onnxruntime": onnxruntime.__version__, "onnx": onnx.__version__}
        versions |= {"onnxscript": onnxscript.__version__}
    return versions


def tower(model, kind):
    """The tower with its projection and the scaling to length 1, as one module."""
    import torch

    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            if kind == "pixels":
                out = self.model.get_image_features(pixel_values=x)
            elif kind == "mels":
                out = self.model.get_audio_features(input_features=x)
            elif self.model.config.model_type == "clap":
                # RoBERTa: padding is hidden.
                mask = (x != self.model.config.text_config.pad_token_id).long()
                out = self.model.get_text_features(input_ids=x, attention_mask=mask)
            else:
                out = self.model.get_text_features(input_ids=x)
            # Older versions return the tensor itself.
            out = getattr(out, "pooler_output", out)
            return torch.nn.functional.normalize(out, dim=-1)

    return Tower().eval()


class Peer:
    def __init__(self, engine, threads):
        self.engine, self.threads = engine, threads
        self.model, self.runs = None, {}

    def load(self, request):
        import torch
        from transformers import AutoModel

        self.runs.clear()
        self.model = None
        self.folder, self.cache = request["model"], pathlib.Path(request["cache"])
        dtype = torch.bfloat16 if self.engine == "torch-bf16" else torch.float32
        begin = time.perf_counter()
        self.model = AutoModel.from_pretrained(self.folder, dtype=dtype).eval()
        return {"seconds": time.perf_counter() - begin}

    def input(self, request):
        import numpy as np
        import torch

        kind, shape = request["kind"], request["shape"]
        floats = kind != "tokens"
        data = np.fromfile(request["file"], dtype=np.float32 if floats else np.uint32).reshape(shape)
        if kind == "samples":
            self.runs[request["id"]] = self.features(data)
            return {}
        x = torch.from_numpy(data if floats else data.astype(np.int64))
        module = tower(self.model, kind)
        if self.engine == "ort-f32":
            run = self.session(module, kind, x)
        else:
            x = x.to(self.model.dtype) if floats else x

            def run():
                with torch.inference_mode():
                    return module(x)

        self.runs[request["id"]] = run
        return {}

    def features(self, sounds):
        """From samples to features, a row a sound; in NumPy, whatever the engine is, so that one will do."""
        from transformers import AutoFeatureExtractor

        if self.engine != "torch-f32":
            raise ValueError("features are computed in NumPy, not with this engine; torch-f32 has them")
        extractor = AutoFeatureExtractor.from_pretrained(self.folder)

        def run():
            rate = extractor.sampling_rate
            found = extractor(list(sounds), sampling_rate=rate, return_tensors="pt")["input_features"]
            return found.flatten(1)

        return run

    def session(self, module, kind, x):
        """One graph of fixed shapes for each input, which ONNX Runtime does best on. Kept on disk."""
        import onnxruntime
        import torch

        name = f"{kind}-{'x'.join(map(str, x.shape))}"
        path = self.cache / f"{name}.onnx"
        if not path.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            part = self.cache / f"{name}.part.onnx"
            with torch.inference_mode():
                torch.onnx.export(
                    module, (x,), part, input_names=["x"], output_names=["y"], dynamo=True, external_data=False
                )
            part.rename(path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        # Its threads spin while a run lasts, as they do by default, and sleep as soon as it ends: others run next.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        feed = {"x": x.numpy()}
        return lambda: session.run(None, feed)[0]

    def run(self, request):
        run, seconds = self.runs[request["id"]], []
        for _ in range(request["repeats"]):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        return {"seconds": seconds}

    def embed(self, request):
        import torch

        out = torch.as_tensor(self.runs[request["id"]]()).float()
        return {"shape": list(out.shape), "data": out.flatten().tolist()}


def main():
    answer = answers()

    engine, threads = sys.argv[1], int(sys.argv[2])
    if engine not in ENGINES:
        return answer(error=f"there is no engine {engine}; there are {', '.join(ENGINES)}")
    try:
        answer(versions=start(engine, threads))
    except ImportError as e:
        return answer(error=f"Python has no {e.name}; pip install {e.name}")
    peer = Peer(engine, threads)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(**getattr(peer, request["op"])(request))
        except Exception as e:
            answer(error=f"{type(e).__name__}: {' '.join(str(e).split())[:300]}")


main()
