"""From the options to a table and a file: is the GPU free, measure it, say what came out."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime

from agent import __version__
from agent.calibration import torch_device
from agent.calibration.conditions import Observer, gpu_at, reasons_against, settled
from agent.calibration.device import Device
from agent.calibration.measure import NEEDED_BYTES, Bench, Calibration
from agent.calibration.progress import Progress
from agent.calibration.report import Report, peaks_of, remarks, render_csv, render_json, render_text, warnings
from agent.calibration.roofs_file import check_writable, render_roofs, write_roofs
from agent.clock import Clock, SystemClock
from agent.errors import AgentError, SourceError
from agent.readings import GpuReading
from agent.roofline.gpus import bandwidth_from_clock, find_gpu
from agent.sources.nvml import NvmlSource


def run(options: argparse.Namespace) -> int:
    """Measure what was asked for. Gives the exit status."""
    clock = SystemClock()
    if options.output is not None:
        check_writable(options.output)
    if not torch_device.is_installed():
        raise AgentError(torch_device.LACKING)
    report = _of_cpu(options, clock) if options.device == "cpu" else _of_gpu(options, clock)
    for warning in warnings(report):
        sys.stderr.write(f"roofline-agent: {warning}\n")
    if options.output is not None:  # first: who reads the table may not read it to its end
        calibration, peaks = report.calibration, peaks_of(report)
        text = render_roofs(report.gpu_name, calibration, peaks=peaks, remarks=remarks(report))
        write_roofs(options.output, text)
        sys.stderr.write(f"roofline-agent: the roofs are in {options.output}\n")
    render = {"text": render_text, "json": render_json, "csv": render_csv}[options.format]
    sys.stdout.write(render(report))
    return 0


def _of_gpu(options: argparse.Namespace, clock: Clock) -> Report:
    source = NvmlSource(clock=clock)
    try:
        node = settled(source.read)
        gpu = gpu_at(node, options.gpu)
        reasons = reasons_against(gpu, needed_bytes=NEEDED_BYTES)
        if reasons and not options.force:
            raise AgentError(
                f"GPU {gpu.index} ({gpu.name}) is busy: {'; '.join(reasons)}. What shares it would make its "
                "roofs look lower: stop it, choose another with --gpu, or measure all the same with --force"
            )

        def read() -> GpuReading | None:
            try:
                return gpu_at(source.read(), options.gpu)
            except (AgentError, SourceError):
                return None

        device = torch_device.open_gpu(gpu.uuid, gpu.name)
        with Observer(read) as observer:
            calibration = _measure(device, options, clock)
        return Report(
            at=datetime.fromtimestamp(clock.unix(), UTC),
            version=__version__,
            library=device.library,
            gpu_name=gpu.name,
            gpu_uuid=gpu.uuid,
            driver_version=node.driver_version,
            spec=find_gpu(gpu.name, gpu.memory_total_bytes),
            clock_dram_bytes_per_second=bandwidth_from_clock(
                memory_clock_max_hertz=gpu.memory_clock_max_hertz, memory_bus_bits=gpu.memory_bus_bits
            ),
            busy=reasons,
            conditions=observer.conditions,
            calibration=calibration,
        )
    finally:
        source.close()


def _of_cpu(options: argparse.Namespace, clock: Clock) -> Report:
    device = torch_device.open_cpu()
    return Report(
        at=datetime.fromtimestamp(clock.unix(), UTC),
        version=__version__,
        library=device.library,
        gpu_name=device.name,
        calibration=_measure(device, options, clock),
    )


def _measure(device: Device, options: argparse.Namespace, clock: Clock) -> Calibration:
    with Progress(sys.stderr) as progress:
        bench = Bench(device, clock=clock, seconds=options.seconds, dtypes=options.dtypes, tell=progress.tell)
        return bench.run()
