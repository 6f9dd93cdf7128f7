"""The tables of docs/accuracy.md. The text around them is written by hand."""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from agent.roofline.step import ACHIEVED, COMPONENTS, MICRO, Achieved, StepConstants, attribute
from agent.roofline.workload import workload
from tests.accuracy.fit import Fitted, errors, fit, held_out, held_out_models
from tests.accuracy.rows import Group, Server, Step, servers, steps
from tests.roofline.test_models import PUBLISHED, architecture_of, served
from tests.roofline.test_workload import GOLDEN, work_of

Cells = Sequence[str]


def table(header: Cells, rows: Iterable[Cells]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def percent(ratio: float, *, signed: bool = False) -> str:
    return f"{100 * ratio:{'+' if signed else ''}.1f} %"


def errors_cells(relative: Iterable[float]) -> list[str]:
    """n, mean, worst; dashes of nothing."""
    found = errors(relative)
    return ["–"] * 3 if found is None else [str(found.count), percent(found.mean), percent(found.worst)]


# --- groups ------------------------------------------------------------------------------------------


def groups() -> Mapping[Group, list[Step]]:
    """Steps by what one set of constants speaks of."""
    found: dict[Group, list[Step]] = defaultdict(list)
    for step in steps():
        found[step.group].append(step)
    return dict(sorted(found.items(), key=lambda item: str(item[0])))


def steps_of(row: Achieved) -> list[Step]:
    """The steps that a row of the agent's table speaks of; a row without a part, those of all parts."""
    return [
        step
        for step in steps()
        if (step.group.narrow, step.group.experts) == row.kind
        and step.group.backend == row.backend
        and (not row.parts or step.group.part in row.parts)
    ]


def without_model() -> list[tuple[Step, float]]:
    """Errors where the model of the row was left out of the fit."""
    return [pair for rows in groups().values() for pair in held_out_models(rows)]


def without_part() -> list[tuple[Step, float]]:
    """Errors where the GPU of the row was left out of the fit, and the constants are of all others."""
    found: list[tuple[Step, float]] = []
    for group, rows in groups().items():
        others = [
            step
            for other, known in groups().items()
            if replace(other, part=group.part) == group and other.part != group.part
            for step in known
        ]
        found += held_out(rows, others)
    return found


# --- tables ------------------------------------------------------------------------------------------


def overlap() -> str:
    """What each loss of overlap predicts, η and κ fitted anew for it."""
    rows = []
    for loss in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.0):
        cells = [f"{loss:g}"]
        for narrow in (False, True):
            decode = [
                [step for step in known if step.is_decode]
                for group, known in groups().items()
                if not group.experts and group.narrow is narrow
            ]
            same = [
                step.error(fit(known, overlap_loss=loss).over(step.constants))
                for known in decode
                for step in known
            ]
            other = [error for known in decode for _, error in held_out_models(known, overlap_loss=loss)]
            cells += [*errors_cells(same)[1:], *errors_cells(other)]
        rows.append(cells)
    names = [
        f"{kind}, {what}"
        for kind in ("16 bit", "8 bit")
        for what in ("fitted: mean", "worst", "model left out: n", "mean", "worst")
    ]
    return table(["ω", *names], rows)


def costs() -> str:
    deviations: dict[str, list[float]] = defaultdict(list)
    for row in GOLDEN:
        both = workload(served(row["name"]), work_of(row))
        phase = both.decode if row["phase"] == "decode" else both.prefill
        for what, ours, published in (
            ("FLOPs", phase.flops, row["total_flops"]),
            ("bytes, prefill's activations apart", phase.bytes - phase.activation_bytes, row["total_bytes"]),
            ("bytes of weights read", phase.weight_bytes, row["weight_read_bytes"]),
        ):
            deviations[what].append(ours / float(published) - 1)
    for name, row in PUBLISHED.items():
        architecture = architecture_of(name)
        deviations["parameters"].append(architecture.total_parameters / int(row["total_params"]) - 1)
        deviations["active parameters"].append(architecture.active_parameters / int(row["active_params"]) - 1)
    return table(
        ["what", "n", "largest deviation"],
        [[what, str(len(found)), f"{max(map(abs, found)):.0e}"] for what, found in deviations.items()],
    )


def per_gpu() -> str:
    found: dict[tuple[str, str, str], list[tuple[float, float]]] = defaultdict(list)
    for step in steps():
        work, ranks = step.phase_work, step.model.tensor_parallel
        moved = work.bytes - work.activation_bytes
        key = ("step", step.row["model"], step.row["tp"])
        found[key].append(
            (
                work.flops / ranks / 1e9 / float(step.row["gflops_per_gpu"]) - 1,
                moved / ranks / 1e6 / float(step.row["mbytes_per_gpu"]) - 1,
            )
        )
    for server in servers():
        ranks = server.model.tensor_parallel
        key = ("server", server.row["model"], server.row["tp"])
        found[key].append(
            (
                server.decode.flops / ranks / 1e9 / float(server.row["decode_gflops_gpu"]) - 1,
                server.decode.bytes / ranks / 1e6 / float(server.row["decode_mbytes_gpu"]) - 1,
            )
        )
    far = {
        key: pairs
        for key, pairs in found.items()
        if max(abs(value) for pair in pairs for value in pair) > 0.01
    }
    near = sum(len(pairs) for key, pairs in found.items() if key not in far)
    rows = [
        [kind, model, degree, str(len(pairs)), _span(pair[0] for pair in pairs), _span(p[1] for p in pairs)]
        for (kind, model, degree), pairs in sorted(far.items())
    ]
    return table(
        ["rows", "model", "TP", "n", "FLOPs", "bytes"],
        [*rows, ["all others", "", "", str(near), *["< 1 %"] * 2]],
    )


def _span(values: Iterable[float]) -> str:
    low, *_, high = sorted([*values] * 2)
    return f"{percent(low, signed=True)} … {percent(high, signed=True)}"


def bound() -> str:
    rows = []
    for what, measured in (("steps", steps()), ("servers", servers())):
        held = sum(one.bound_seconds <= one.seconds for one in measured)
        rows.append([what, str(len(measured)), str(held), percent(held / len(measured))])
    return table(["rows", "n", "bound ≤ measured", "share"], rows)


def exceptions() -> str:
    return table(
        ["server", "bound ms", "measured ms", "first token after", "KV cache wanted ÷ there"],
        [
            [
                _server_name(server),
                f"{server.bound_seconds * 1e3:.1f}",
                f"{server.seconds * 1e3:.1f}",
                f"{float(server.row['ttft_ms']) / 1e3:.0f} s",
                f"{server.kv_cache_demand_ratio:.1f}",
            ]
            for server in servers()
            if server.bound_seconds > server.seconds
        ],
    )


def _server_name(server: Server) -> str:
    row = server.row
    return (
        f"{row['model']} {row['precision']}, {row['system']}, TP{row['tp']}, {row['backend']}, "
        f"{row['isl']}/{row['osl']} tokens, {row['concurrency']} at once"
    )


CLASSES: tuple[tuple[str, str, Callable[[Step], bool]], ...] = (
    ("dense decode", "mean 5 %, worst 15 %", lambda s: s.is_decode and not s.group.experts),
    ("– 16 bit", "", lambda s: s.is_decode and not s.group.experts and not s.group.narrow),
    ("– 8 bit", "", lambda s: s.is_decode and not s.group.experts and s.group.narrow),
    ("decode with experts", "mean 20 %", lambda s: s.is_decode and s.group.experts),
    ("dense prefill, 16 bit", "mean 10 %", lambda s: not s.is_decode and s.group.kind == "dense, 16 bit"),
    ("dense prefill, 8 bit", "none", lambda s: not s.is_decode and s.group.kind == "dense, 8 or 4 bit"),
    ("prefill with experts", "none", lambda s: not s.is_decode and s.group.experts),
)


def predictions() -> str:
    return table(
        ["", "target", *ERRORS], [[name, target, *_errors_of(chosen)] for name, target, chosen in CLASSES]
    )


ERRORS = [
    f"{how}: {what}"
    for how in ("in use", "model left out", "GPU left out")
    for what in ("n", "mean", "worst")
]


def _errors_of(chosen: Callable[[Step], bool]) -> list[str]:
    in_use = [(step, step.error(step.constants)) for step in steps()]
    return [
        cell
        for pairs in (in_use, without_model(), without_part())
        for cell in errors_cells(error for step, error in pairs if chosen(step))
    ]


def predictions_by_gpu() -> str:
    rows = []
    for group, members in groups().items():
        for phase, decode in (("decode", True), ("prefill", False)):
            own = [step for step in members if step.is_decode is decode]
            if own:
                models = len({step.row["model"] for step in own})
                what = [group.part, group.kind, group.backend, phase, str(models)]
                rows.append([*what, *_errors_of(own.__contains__)])
    return table(["GPU", "model", "engine", "phase", "models", *ERRORS], rows)


def constants() -> str:
    def shown(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:.{digits}f}"

    rows = []
    for row in ACHIEVED:
        members = steps_of(row)
        fitted = fit(members) if members else Fitted()
        kind = f"{'experts' if row.experts else 'dense'}, {'8 or 4' if row.narrow else '16'} bit"
        rows.append(
            [
                row.parts[0] if row.parts else "any other",
                kind,
                row.backend,
                f"{row.dram:.2f}",
                f"{row.layer_microseconds:.0f}",
                f"{row.compute:.2f}",
                str(len(members)),
                shown(fitted.dram, 3),
                shown(fitted.layer_microseconds, 1),
                shown(fitted.compute, 3),
                row.origin,
            ]
        )
    header = ["GPU", "model", "engine", "η", "κ µs", "η_c", "rows", "fit η", "fit κ", "fit η_c", "origin"]
    return table(header, rows)


# --- servers -----------------------------------------------------------------------------------------

REFERENCE = {
    ("h200_sxm", 1): 0.01,
    ("h100_sxm", 2): 0.09,
    ("h200_sxm", 2): 0.08,
    ("h100_sxm", 4): 0.15,
    ("h200_sxm", 4): 0.13,
    ("h100_sxm", 8): 0.22,
    ("h200_sxm", 8): 0.23,
}
"""Median residuals of vLLM serving Llama-70B in fp8, over 15 servers each, by another attribution: with η of
0.87 and 0.82 and κ of 36.5 µs, fitted to 16-bit kernels, and η_c of 0.45."""


def llama_servers(system: str, degree: int) -> list[Server]:
    """Llama-70B in 8 bit on vLLM."""
    return [
        server
        for server in servers()
        if (server.row["model"], server.row["precision"]) == ("Llama-3.1-70B", "fp8")
        and (server.row["backend"], server.row["system"]) == ("vllm", system)
        and server.model.tensor_parallel == degree
    ]


def residuals() -> str:
    rows = []
    for (system, degree), reference in REFERENCE.items():
        members = llama_servers(system, degree)
        shares = [server.attribution.shares for server in members]
        medians = [f"{statistics.median(share[name] for share in shares):.2f}" for name in COMPONENTS]
        ours = statistics.median(server.residual_ratio for server in members)
        rows.append([system, str(degree), str(len(members)), *medians, f"{ours:.2f}", f"{reference:.2f}"])
    names = [name.replace("_", " ") for name in COMPONENTS]
    return table(["GPU", "TP", "n", *names, "residual", "elsewhere"], rows)


def eight_bits() -> str:
    """What kernels and servers say of one another's constants."""
    rows = []
    for system in ("h100_sxm", "h200_sxm"):
        members = [
            step
            for step in steps()
            if step.row["system"] == system
            and (step.group.kind, step.group.backend) == ("dense, 8 or 4 bit", "vllm")
        ]
        wide = [
            step for step in steps() if step.row["system"] == system and step.group.kind == "dense, 16 bit"
        ]
        in_use, kernels, sixteen = members[0].constants, fit(members), fit(wide)
        for what, chosen in (
            ("fit to the 8-bit kernels", kernels.over(in_use)),
            ("fit to the 16-bit kernels", replace(sixteen, compute=None).over(in_use)),
            ("in use", in_use),
        ):
            found = errors(step.error(chosen) for step in members if step.is_decode)
            assert found is not None
            rows.append(
                [
                    system,
                    what,
                    f"{chosen.decode_dram_efficiency:.2f}",
                    f"{chosen.kernel_latency_per_layer_seconds / MICRO:.0f}",
                    f"{percent(found.mean)} / {percent(found.worst)} / {percent(found.bias, signed=True)}",
                    *(_median_residual(llama_servers(system, degree), chosen) for degree in (1, 2, 4, 8)),
                ]
            )
    header = ["GPU", "constants", "η", "κ µs", "kernels: mean / worst / bias", "TP1", "TP2", "TP4", "TP8"]
    return table(header, rows)


def _median_residual(members: Sequence[Server], chosen: StepConstants) -> str:
    if not members:
        return "–"
    found = [
        attribute(
            model=server.model,
            work=server.work,
            tokens=server.tokens,
            decode_step_seconds=server.seconds,
            window_seconds=server.seconds,
            roof=server.roof,
            constants=chosen,
        ).residual_ratio
        for server in members
    ]
    return f"{statistics.median(value for value in found if value is not None):+.2f}"


def all_servers() -> str:
    found: dict[tuple[str, str, str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for server in servers():
        row = server.row
        key = (row["model"], row["precision"], row["system"], row["backend"])
        found[key][server.model.tensor_parallel].append(server.residual_ratio)
    degrees = (1, 2, 4, 8)
    rows = []
    for key, by_degree in sorted(found.items()):
        cells = [
            f"{statistics.median(by_degree[d]):+.2f} ({len(by_degree[d])})" if by_degree[d] else "–"
            for d in degrees
        ]
        every = [value for values in by_degree.values() for value in values]
        over = sum(value < -0.15 for value in every) / len(every)
        rows.append([*key, *cells, f"{over:.0%}"])
    header = ["model", "precision", "GPU", "engine", *(f"TP{d}" for d in degrees), "below −15 %"]
    return table(header, rows)


TABLES: Mapping[str, Callable[[], str]] = {
    "costs": costs,
    "per-gpu": per_gpu,
    "bound": bound,
    "exceptions": exceptions,
    "predictions": predictions,
    "predictions-by-gpu": predictions_by_gpu,
    "constants": constants,
    "overlap": overlap,
    "eight-bits": eight_bits,
    "residuals": residuals,
    "all-servers": all_servers,
}

_MARKED = re.compile(r"(<!-- table: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def render_page(text: str) -> str:
    """The page with its tables as they are now."""
    return _MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def tables_in(text: str) -> list[str]:
    """The names of the tables that a page has."""
    return [found[2] for found in _MARKED.finditer(text)]
