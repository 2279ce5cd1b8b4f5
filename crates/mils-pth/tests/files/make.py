"""Makes the checkpoints that the tests read, and beside each what PyTorch reads in it, as safetensors.

`python make.py`, with torch 2.15 and safetensors 0.8. The files are committed; no test needs Python. `os-system.pth`
would run `true` if anybody loaded it as a pickle.
"""

import argparse
import collections
import os
import pathlib
import pickle
import zipfile

import torch
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
torch.manual_seed(0)


def flat(value, name=""):
    if isinstance(value, torch.Tensor):
        yield name, value.detach().contiguous().clone()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from flat(item, f"{name}.{i}".lstrip("."))


def make(name, value, expected=None, **options):
    torch.save(value, HERE / f"{name}.pth", **options)
    save_file(dict(flat(value if expected is None else expected)), HERE / f"{name}.safetensors")


INTEGERS = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
EIGHTS = [torch.float8_e4m3fn, torch.float8_e5m2]


def dtypes(all_of_them=True):
    made = {str(t): torch.arange(6).reshape(2, 3).to(t) for t in INTEGERS[: 8 if all_of_them else 5]}
    made.update({str(t): (torch.randn(3, 2) * 3).to(t) for t in FLOATS})
    if all_of_them:
        made.update({str(t): torch.randn(5).to(t) for t in EIGHTS})
    made["bool"] = torch.tensor([True, False, True])
    return made


def views():
    whole = torch.randn(6, 5, 4)
    line = torch.arange(40, dtype=torch.int16)
    return {
        "whole": whole,
        "transposed": whole.transpose(0, 2),
        "middle": whole[2:4, 1:, ::2],
        "row": whole[3],
        "column": whole[:, 2, 1],
        "expanded": line[3:6].unsqueeze(0).expand(4, 3),
        "step": line[5:35:7],
        "scalar": line[7],
        "empty": torch.zeros(0, 3),
        "empty view": whole[:, :0, 1],
        "tied": whole,
    }


class Namespaced(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
        self.weight = torch.nn.Parameter(torch.randn(2, 2))
        self.register_buffer("count", torch.tensor(5))


class Code:
    def __reduce__(self):
        return os.system, ("true",)


def training():
    model = Namespaced()
    optimizer = torch.optim.AdamW(model.parameters())
    model.inner(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "epoch": 3,
        "best": 0.25,
        "name": "naïve",
        "big": 1 << 90,
        "none": None,
        "pair": (torch.ones(2), [torch.zeros(1), 7]),
        "parameters": collections.OrderedDict(a=model.weight),
        "size": torch.ones(3, 4).shape,
        "device": torch.device("cpu"),
        "dtype": torch.float16,
    }


def main():
    make("dtypes", dtypes())
    make("views", views())
    make("training", training())
    make("protocol-4", training(), pickle_protocol=4)
    make("old", {**views(), **dtypes(all_of_them=False)}, _use_new_zipfile_serialization=False)
    make("old-training", training(), _use_new_zipfile_serialization=False)
    with_objects = {"model": {"w": torch.ones(2, 2)}, "args": argparse.Namespace(lr=1.0, tensor=torch.ones(3))}
    make("objects", with_objects, expected={"model": with_objects["model"]})
    for name, value in {"os-system": {"w": torch.ones(1), "x": Code()}, "module": torch.nn.Linear(2, 2)}.items():
        torch.save(value, HERE / f"{name}.pth")
    torch.save({"w": torch.ones(3).to_sparse()}, HERE / "sparse.pth")
    torch.save(3, HERE / "number.pth")
    (HERE / "plain.pth").write_bytes(pickle.dumps({"w": 1}, protocol=2))
    with zipfile.ZipFile(HERE / "dtypes.pth") as stored, zipfile.ZipFile(
        HERE / "deflated.pth", "w", zipfile.ZIP_DEFLATED
    ) as deflated:
        for entry in stored.namelist():
            deflated.writestr(entry, stored.read(entry))


main()
