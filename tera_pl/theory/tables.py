"""The tables of docs/theory.md."""

from collections.abc import Sequence

from tera_pl.theory.approximation import Approximation
from tera_pl.theory.theorems import full_rank_counts


def count_table() -> str:
    """Count trainable parameters of weight updates of full rank (Theorem 2), as Markdown."""
    lines = [
        "| update | TeRA, fewest | TeRA, most | HiRA | VeRA | LoRA |",
        "|---|---|---|---|---|---|",
    ]
    for rows, columns in ((4096, 4096), (1024, 4096), (4096, 11008)):
        c = full_rank_counts(rows, columns)
        counts = (c.tera_fewest, c.tera_most, c.hira, c.vera, c.lora)
        lines.append(f"| {rows} x {columns} | " + " | ".join(f"{n:,}" for n in counts) + " |")
    return "\n".join(lines) + "\n"


def error_table(approximations: Sequence[Approximation]) -> str:
    """Format errors and their bounds (Theorem 3) as Markdown."""
    lines = [
        "| update | core, factors | N | trainable parameters | error reached | bound |",
        "|---" * 6 + "|",
    ]
    lines += [
        f"| {row.target} | {', '.join(row.inits)} | {row.order} | {row.trainable_params} | "
        f"{row.error:.3f} | {row.bound:.3g} |"
        for row in approximations
    ]
    return "\n".join(lines) + "\n"
