"""The printed form of an estimate."""

from typing import Any

GB = 10**9


def as_table(found: dict[str, Any]) -> str:
    """Lay out an estimate for a terminal.

    Args:
        found: The result of `estimate_run`.

    Returns:
        Lines of text.
    """
    counts, flops = found["counts"], found["flops_per_token"]
    of_trained = [f"{counts[f'trained_{kind}']:,} {kind}" for kind in ("norms", "biases")]
    sections = {
        f"{found['adapter'] or 'full fine-tuning'} on {found['backbone']}": {},
        "parameters": {
            "frozen, base": f"{counts['base']:,}",
            "frozen, adapter": f"{counts['frozen_adapter']:,}",
            "trained": f"{counts['trained']:,}   ({counts['trained_percent']:.4f} %; "
            f"of them {', '.join(of_trained)})",
            "stored": f"{counts['stored']:,}",
        },
        "disk space, bytes": {key: f"{value:,}" for key, value in found["disk_bytes"].items()},
        f"peak memory of a training step, GB (10^9 bytes): {found['batch_size']} x "
        f"{found['length']} tokens, {found['supervised_length']} of {found['length']} "
        "supervised": _gigabytes(found["memory_bytes"]),
        **_generation(found["validation"]),
        "forward and backward, GFLOP per token": {
            "base, frozen": f"{flops['base'] / GB:.3f}",
            "as configured": f"{flops['adapted'] / GB:.3f}",
        },
    }
    lines = []
    for title, rows in sections.items():
        lines.append(title)
        lines += [f"  {key:<20}{value:>16}" for key, value in rows.items()]
    verdict = "fits" if found["fits"] else "DOES NOT FIT"
    return "\n".join([*lines, f"{verdict} into {found['device_bytes'] / GB:g} GB"])


def _generation(found: dict[str, Any] | None) -> dict[str, dict[str, str]]:
    if found is None:
        return {"nothing is generated; the memory of scoring candidates is not estimated": {}}
    title = (
        f"peak memory of generation in the {found['stage']}, GB: {found['prompts']} prompts x "
        f"{found['beams']} beams x ({found['prompt_length']} + {found['new_tokens']}) tokens"
    )
    return {title: _gigabytes(found["memory_bytes"])}


def _gigabytes(parts: dict[str, int]) -> dict[str, str]:
    return {key.replace("_", " "): f"{value / GB:.3f}" for key, value in parts.items()}
