"""CPU time, page faults and peak memory of training steps with the shapes of SmolLM2-135M.

    python docs/benchmarks/cpu_steps.py [float32|bfloat16] [compile]

8 x 128 tokens, forward and backward of the frozen model, LoRA r=1 and TeRA. CPU time, unlike time
by the clock, hardly depends on what else the machine does. The first step is not counted.
"""

import resource
import statistics
import sys

import peft
import torch

from tera_pl.allocator import keep_freed_memory
from tera_pl.benchmarking import models
from tera_pl.models.backbone import DTYPES
from tera_pl.models.compilation import compile_layers

STEPS = 3


def main(args: list[str]) -> None:
    """Measure and print a line per method."""
    kept = keep_freed_memory()
    models.METHODS["lora_r1"] = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=1)
    dtype = next((DTYPES[name] for name in args if name in DTYPES), torch.float32)
    base = models.build_base("smollm2_135m", torch.device("cpu"), dtype)
    ids = torch.randint(base.config.vocab_size, (8, 128))
    for name in ("frozen", "lora_r1", "tera"):
        model = base if name == "frozen" else models.adapt(base, name)
        if "compile" in args and name != "frozen":
            compile_layers(model)
        before, steps = usage(), []
        for _ in range(STEPS + 1):
            step(model, ids, frozen=name == "frozen")
            after = usage()
            steps.append([b - a for a, b in zip(before, after, strict=True)])
            before = after
        user, system, faults = map(statistics.median, zip(*steps[1:], strict=True))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        sys.stdout.write(
            f"{args} kept={kept} {name}: {user:.2f} s user, {system:.2f} s system, "
            f"{faults:.0f} page faults, peak {peak:.2f} GB\n"
        )
        sys.stdout.flush()


def step(model: torch.nn.Module, ids: torch.Tensor, *, frozen: bool) -> None:
    """Run forward and backward; of the frozen model to its inputs."""
    if frozen:
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=embedded, labels=ids, use_cache=False).loss.backward()
    else:
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        model.zero_grad()


def usage() -> tuple[float, float, int]:
    """Seconds in the process, seconds in the kernel, and page faults of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime, used.ru_stime, used.ru_minflt


if __name__ == "__main__":
    main(sys.argv[1:])
